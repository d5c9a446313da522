//! What other clients do: come all at once, take nothing, leave.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::DATASET;
use super::super::ground::READERS;
use super::super::reader::{Goal, Reader, Way};
use super::super::schedule::Planned;
use super::Nemesis;

/// Readers of a herd.
const HERD: usize = 40;

/// Bytes of what it reads.
const WANTED: u64 = 6 << 20;

/// Clients that take nothing, or leave.
const OTHERS: usize = 30;

impl Nemesis {
    /// Many read at once what nobody has read, and what that was.
    pub(super) async fn herd(&self, chance: &mut StdRng) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let key = format!("herd-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.world.truth.put(&self.ground.origin, &key, WANTED);
        let mut readers = JoinSet::new();
        for number in 0..HERD {
            let host = self.ground.net.reader(number % READERS);
            let mut reader = Reader::new(&self.world, host, Way::Stream, chance.random());
            let goal = Goal::whole(&key);
            readers.spawn(async move { reader.read(goal).await });
        }
        while readers.join_next().await.is_some() {}
        self.world.truth.delete(&self.ground.origin, &key);
        key
    }

    /// Many ask a member, and take nothing for a while.
    pub(super) async fn idle(&self, planned: &Planned, chance: &mut StdRng) -> anyhow::Result<()> {
        let mut held = Vec::new();
        for _ in 0..OTHERS {
            held.extend(self.asked(planned.host, chance).await);
        }
        sleep(planned.lasting).await;
        Ok(())
    }

    /// Many ask a member, take some, and leave.
    pub(super) async fn leavers(
        &self,
        planned: &Planned,
        chance: &mut StdRng,
    ) -> anyhow::Result<()> {
        for _ in 0..OTHERS {
            let Some(mut stream) = self.asked(planned.host, chance).await else {
                continue;
            };
            let mut some = vec![0; chance.random_range(1..64 << 10)];
            // Whatever comes, or does not: it leaves.
            let _ =
                tokio::time::timeout(std::time::Duration::from_millis(50), stream.read(&mut some))
                    .await;
        }
        Ok(())
    }

    /// A connection on which an object was asked for. Those that speak no TLS are turned away by who does.
    async fn asked(&self, host: usize, chance: &mut StdRng) -> Option<TcpStream> {
        let from = self.ground.net.reader(chance.random_range(0..READERS));
        let address = self.world.doors[host].address;
        let key = self.world.keys.choose(chance)?;
        let mut stream = from.connect(address).await.ok()?;
        let request = format!("GET /{DATASET}/{key} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        Some(stream)
    }
}
