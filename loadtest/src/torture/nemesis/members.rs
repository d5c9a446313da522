//! What is done to a member: to its process, its links, its disk, its settings.

use std::net::Ipv4Addr;

use anyhow::ensure;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::sleep;

use super::super::ground::READERS;
use super::super::kind::Kind;
use super::super::schedule::{GUEST, Planned, SECURE};
use super::super::wire::{Rules, Which};
use super::Nemesis;
use crate::scenario::net::{Rate, address};

/// `memory` of a gateway that has little.
const LITTLE: &str = "64MiB";

/// Packets lost, of a hundred.
const LOST: u32 = 2;

/// What a throttled link carries.
const THROTTLED: Rate = Rate::megabits(200);

impl Nemesis {
    pub(super) async fn member(
        &self,
        planned: &Planned,
        chance: &mut StdRng,
    ) -> anyhow::Result<()> {
        let host = planned.host;
        match planned.kind {
            Kind::Kill
            | Kind::PowerCut
            | Kind::DiskLost
            | Kind::Freeze
            | Kind::Stop
            | Kind::Drain
            | Kind::LittleMemory
            | Kind::Join => self.process(planned).await,
            Kind::CutOff
            | Kind::Parted
            | Kind::OneWay
            | Kind::Unreachable
            | Kind::NoOrigin
            | Kind::Loss => self.packets(planned).await,
            Kind::Throttle => {
                let net = &self.ground.net;
                net.throttle(host, THROTTLED).await?;
                sleep(planned.lasting).await;
                net.throttle(host, Rate::UNSHAPED).await
            }
            Kind::Reload | Kind::BadSettings | Kind::Certificate => self.settings(planned).await,
            Kind::Idle => self.idle(planned, chance).await,
            Kind::Leavers => self.leavers(planned, chance).await,
            _ => self.disk(planned, chance).await,
        }
    }

    async fn process(&self, planned: &Planned) -> anyhow::Result<()> {
        let (host, ground) = (planned.host, &*self.ground);
        match planned.kind {
            Kind::Kill => {
                ground.kill(host).await?;
                sleep(planned.lasting).await;
            }
            Kind::PowerCut => {
                let disk = &ground.disks[host];
                // The disk goes first: nothing is written once the power is away.
                disk.shut_down().await?;
                ground.kill(host).await?;
                sleep(planned.lasting).await;
                disk.unmount().await?;
                disk.mount().await?;
            }
            Kind::DiskLost => {
                let disk = &ground.disks[host];
                ground.kill(host).await?;
                disk.unmount().await?;
                disk.format().await?;
                sleep(planned.lasting).await;
                disk.mount().await?;
            }
            Kind::Freeze => {
                ground.signal(host, Signal::STOP).await?;
                sleep(planned.lasting).await;
                return ground.signal(host, Signal::CONT).await;
            }
            Kind::Stop => {
                ground.stop(host).await?;
                sleep(planned.lasting).await;
            }
            Kind::Drain => {
                if host != SECURE {
                    // One that wants signatures is drained by SIGTERM alone.
                    let status = ground.post(host, "/-/drain").await?;
                    ensure!(status == 202, "/-/drain answers {status}");
                    sleep(planned.lasting).await;
                }
                ground.stop(host).await?;
            }
            Kind::LittleMemory => {
                ground.kill(host).await?;
                ground.start(host, LITTLE).await?;
                sleep(planned.lasting).await;
                ground.kill(host).await?;
            }
            _ => {
                ground.begin(GUEST).await?;
                sleep(planned.lasting).await;
                return ground.stop(GUEST).await;
            }
        }
        ground.begin(host).await
    }

    async fn packets(&self, planned: &Planned) -> anyhow::Result<()> {
        let host = planned.host;
        let which = match planned.kind {
            Kind::CutOff => {
                let others = (0..=GUEST).filter(|&other| other != host);
                Which::Both(others.map(address::gateway).collect())
            }
            Kind::Parted => Which::Both(vec![address::gateway(planned.other)]),
            Kind::OneWay => Which::From(address::gateway(planned.other)),
            Kind::Unreachable => {
                let readers: Vec<Ipv4Addr> = (0..READERS).map(address::reader).collect();
                Which::Both(readers)
            }
            Kind::NoOrigin => Which::Both(vec![address::origin()]),
            _ => Which::Percent(LOST),
        };
        let rules = Rules::drop(self.ground.net.gateway(host), &which).await?;
        sleep(planned.lasting).await;
        rules.lift().await
    }

    async fn disk(&self, planned: &Planned, chance: &mut StdRng) -> anyhow::Result<()> {
        let (host, ground) = (planned.host, &*self.ground);
        let disk = &ground.disks[host];
        match planned.kind {
            Kind::DiskFull => {
                disk.fill(true)?;
                sleep(planned.lasting).await;
                disk.fill(false)
            }
            Kind::BitFlips => disk.flip(chance),
            Kind::Truncated => disk.truncate(chance),
            Kind::DiskHangs => {
                disk.freeze().await?;
                sleep(planned.lasting).await;
                disk.thaw().await
            }
            _ => {
                disk.shut_down().await?;
                sleep(planned.lasting).await;
                ground.kill(host).await?;
                disk.unmount().await?;
                disk.mount().await?;
                ground.begin(host).await
            }
        }
    }

    async fn settings(&self, planned: &Planned) -> anyhow::Result<()> {
        let (host, ground) = (planned.host, &*self.ground);
        match planned.kind {
            Kind::Reload => {
                let more = "[[datasets]]\nname = \"another\"\norigin = \"s3://another\"\n\
                            options = { aws_endpoint = \"http://10.77.1.1:9000\", aws_region = \"us-east-1\", \
                            aws_access_key_id = \"AK\", aws_secret_access_key = \"SK\" }\n";
                ground.rewrite(host, more)?;
                ground.signal(host, Signal::HUP).await
            }
            Kind::BadSettings => {
                ground.rewrite(host, "nonsense = [\n")?;
                ground.signal(host, Signal::HUP).await?;
                sleep(planned.lasting).await;
                ground.rewrite(host, "")?;
                ground.signal(host, Signal::HUP).await
            }
            _ => ground.certify(),
        }
    }
}
