//! The starts of a gateway alone: with its disk or another, it is killed and comes back.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use forebay_gateway::access::Access;
use forebay_gateway::gateway::{Gateway, Parts};
use forebay_storage::block::BlockSize;
use forebay_storage::origin::HttpClient;
use forebay_storage::residents::Residents;
use forebay_storage::store::Store;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{MAX_REQUESTS, World, datasets, tier};
use crate::disk::End;
use crate::house::Keeping;
use crate::objects::BLOCK;
use crate::origin::OwnOrigin;
use crate::random::Random;
use crate::reader::Readers;
use crate::reader::door::Gone;

/// The gateway's name.
const NAME: &str = "sim";

/// How long a tier may take to be in use once nothing goes wrong any more: the longest pause between two tries, and the
/// try itself.
const MENDED: Duration = Duration::from_secs(90);

/// All starts, of which the last may go on.
#[derive(Debug, Default)]
pub(super) struct Lives {
    started: u64,
    last: Option<Life>,
}

/// One start.
#[derive(Debug)]
struct Life {
    readers: Arc<Readers>,
    tasks: Vec<AbortHandle>,
    keeping: Option<Keeping>,
}

impl World {
    /// Starts the gateway.
    pub(super) fn start(&self) -> anyhow::Result<()> {
        let gone = Arc::new(Gone::default());
        let origin = OwnOrigin {
            origin: Arc::clone(&self.origin),
            gone: Arc::clone(&gone),
        };
        let datasets = datasets(self.connections, HttpClient::new(origin))?;
        let block_size = BlockSize::new(u32::try_from(BLOCK)?);
        let residents = Arc::new(Residents::default());
        let memory = self.memory.bytes();
        let tier = tier(memory / 100 * 70, &residents, &self.trace);
        let house = self.house.as_ref();
        let nvme = house.map(|house| house.nvme()).transpose()?;
        // The tables of a tier come on top: a world with a disk has as much for its readers.
        let memory = memory + nvme.as_ref().map_or(0, |nvme| nvme.geometry().memory());
        let gateway = Gateway::new(Parts {
            store: Store::with_tier(memory, block_size, tier, residents, nvme),
            datasets: Arc::new(datasets),
            access: Access::open(),
            name: NAME.into(),
            max_requests: MAX_REQUESTS,
            log_access: false,
            seed: self.seed,
            fleet: None,
        })?;
        let mut lives = self.lives();
        lives.started += 1;
        let door: Arc<str> = match self.house {
            Some(_) => format!("{NAME}.{}", lives.started).into(),
            None => NAME.into(),
        };
        let readers = Arc::new(Readers {
            door: Arc::clone(&door),
            gateway: Arc::clone(&gateway),
            oracle: Arc::clone(&self.oracle),
            trace: Arc::clone(&self.trace),
            reads: Arc::clone(&self.reads),
            gone,
            disk: house.map(|house| house.disk()),
        });
        let keeping = house.map(|house| house.keep(&gateway));
        if let (Some(disk), Some(nvme)) = (&readers.disk, gateway.reads.store.nvme()) {
            disk.judge_purges(nvme, &self.trace);
        }
        if let Some(before) = &lives.last {
            self.oracle.stays_purged(&before.readers.door, &door);
            self.trace.note(&door, format_args!("starts"));
        }
        self.doors.open(NAME, Arc::clone(&readers));
        let tasks = keeping.iter().flat_map(|keeping| &keeping.tasks);
        lives.last = Some(Life {
            readers,
            tasks: tasks.map(|task| task.abort_handle()).collect(),
            keeping,
        });
        Ok(())
    }

    /// Who reads at the last start.
    pub(super) fn readers(&self) -> anyhow::Result<Arc<Readers>> {
        let lives = self.lives();
        let last = lives.last.as_ref().context("there was no start")?;
        Ok(Arc::clone(&last.readers))
    }

    /// Ends the last start; `told`: it was told to, and wrote down what it knows.
    async fn stop(&self, told: bool, end: End) -> anyhow::Result<()> {
        self.doors.close(NAME);
        let readers = self.readers()?;
        let (tasks, keeping) = {
            let mut lives = self.lives();
            let last = lives.last.as_mut().context("there was no start")?;
            (std::mem::take(&mut last.tasks), last.keeping.take())
        };
        if let Some(keeping) = keeping.filter(|_| told) {
            keeping.write_down().await;
        }
        let (door, gone) = (&readers.door, &readers.gone);
        self.trace.note(door, format_args!("{end:?}, told: {told}"));
        gone.set();
        tasks.iter().for_each(AbortHandle::abort);
        let house = self.house.as_ref().context("there is no house")?;
        house.left(end)
    }

    /// Ends it and starts it again, now and then, until then.
    pub(super) async fn restart_until(self: Arc<Self>, until: Instant) {
        let mut random = Random::new(self.seed, "restarts");
        let rest = *random.pick(&[800, 3000, 8000, 100_000]);
        loop {
            tokio::time::sleep(random.millis(rest / 4..=rest)).await;
            if Instant::now() >= until {
                return;
            }
            if let Err(error) = self.restart(&mut random).await {
                return self.trace.violation("restarts", format_args!("{error:#}"));
            }
        }
    }

    async fn restart(&self, random: &mut Random) -> anyhow::Result<()> {
        let end = match random.chance(40) {
            true => End::PowerLost,
            false => End::Killed,
        };
        self.trace.count("blows: a gateway is killed");
        self.stop(random.chance(50), end).await?;
        let away = *random.pick(&[1, 300, 4000]);
        tokio::time::sleep(random.millis(0..=away)).await;
        let house = self.house.as_ref().context("there is no house")?;
        house.rest()?;
        self.start()
    }

    /// What is on the disk is there again after a kill, and the tier of a disk that works is in use.
    pub(super) async fn judge_restart(&self) -> anyhow::Result<()> {
        if self.house.is_none() {
            return Ok(());
        }
        self.mended().await?;
        let (nvme, disk) = self.nvme()?;
        disk.judge_residents(&nvme, &self.trace);
        let kept = disk.kept(&nvme);
        self.stop(false, End::Killed).await?;
        self.start()?;
        self.mended().await?;
        let (nvme, disk) = self.nvme()?;
        disk.judge_purges(&nvme, &self.trace);
        let lost = kept.iter().filter(|key| !nvme.residents().contains(key));
        let (lost, kept) = (lost.count(), kept.len());
        self.trace
            .note("end", format_args!("{kept} blocks are on disk"));
        if lost > 0 {
            let what = format!("of {kept} blocks on disk a restart forgot {lost}");
            self.trace.violation("end", what);
        }
        Ok(())
    }

    /// Waits until the tier is in use.
    async fn mended(&self) -> anyhow::Result<()> {
        let (nvme, _) = self.nvme()?;
        let until = Instant::now() + MENDED;
        while nvme.state() != "on" && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        if nvme.state() != "on" {
            let why = nvme.trouble();
            let what = format!("the tier is not in use though the disk works: {why:?}");
            self.trace.violation("end", what);
        }
        // What waits to be written is written, and what left is noted.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    }

    fn nvme(
        &self,
    ) -> anyhow::Result<(Arc<forebay_storage::nvme::Nvme>, Arc<crate::disk::SimDisk>)> {
        let readers = self.readers()?;
        let nvme = readers
            .gateway
            .reads
            .store
            .nvme()
            .context("there is no tier")?;
        let disk = readers.disk.as_ref().context("there is no disk")?;
        Ok((Arc::clone(nvme), Arc::clone(disk)))
    }

    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
