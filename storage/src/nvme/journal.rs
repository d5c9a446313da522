//! The journal: which blocks the tier holds, so that a restart knows, and which were purged, so
//! that none of them comes back.
//!
//! Frames of (length, checksum, record), appended. What entered is not waited for: lost, it is a
//! miss. A purge is on the disk before it is answered, with a mark behind it. A tail that was torn is
//! cut off; a bad frame with good ones behind it, the mark of a purge for one, means that a purge may
//! be unreadable, and then nothing of the journal is believed.

#[cfg(any(test, fuzzing))]
mod fuzz;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

use super::medium::Log;
use crate::block::BlockKey;
use crate::object::ObjectId;
use crate::version::VersionKey;

#[cfg(any(test, fuzzing))]
pub use fuzz::journal;

/// A record is at most a key, an ETag and some headers.
const LARGEST: usize = 256 * 1024;

/// Length and checksum in front of each record.
const FRAME: usize = 4 + 8;

/// Records beyond twice what is alive, before the journal is written anew.
const SLACK: usize = 4096;

const ID: u8 = 1;
const VERSION: u8 = 2;
const ENTERED: u8 = 3;
const LEFT: u8 = 4;
const SYNCED: u8 = 5;

/// Bumped when records mean something else; it stands in the first one.
const FORMAT: u8 = 2;

/// A version of which blocks are on disk, with what is needed to know it again after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// The object.
    pub object: ObjectId,
    /// The version's name.
    pub key: VersionKey,
    /// Bytes in the whole object.
    pub size: u64,
    /// The version's headers.
    pub headers: HeaderMap,
}

impl Remembered {
    /// The ETag as the origin wrote it.
    pub(super) fn etag(&self) -> Option<&str> {
        let etag = self.headers.get(http::header::ETAG)?;
        etag.to_str().ok()
    }

    /// Whether the journal can note it: what is longer than a record would not be read back.
    pub(super) fn fits(&self) -> bool {
        let mut record = Vec::new();
        put_version(&mut record, self);
        record.len() <= LARGEST
    }
}

/// A block that is resident, its bytes and the number of its write.
pub(super) type Resident = (BlockKey, u32, u64);

/// What a journal tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Ties the journal to the block files it tells of.
    pub(super) id: u64,
    /// Versions, in the order they were first told.
    pub(super) versions: Vec<Arc<Remembered>>,
    /// Blocks, their bytes and their writes.
    pub(super) blocks: HashMap<BlockKey, (u32, u64)>,
}

/// The journal, to be written by [`Self::compact`] first.
#[derive(Debug)]
pub(super) struct Journal {
    log: Box<dyn Log>,
    /// What left was noted, and not waited for.
    unsynced: bool,
    records: usize,
    id: u64,
    /// In the order they were told: of two versions of an object, the later one is current.
    versions: Vec<Arc<Remembered>>,
    told: HashSet<VersionKey>,
}

impl Journal {
    /// What the journal in `log` tells, if it can be believed; `None`: there is none.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn read(log: &dyn Log) -> io::Result<Option<Option<Told>>> {
        let Some(bytes) = log.read()? else {
            return Ok(None);
        };
        let told = tell(&bytes);
        if told.is_none() && !bytes.is_empty() {
            tracing::warn!(
                path = %log.path().display(),
                "the journal of the NVMe tier is damaged: the tier begins empty"
            );
        }
        Ok(Some(told))
    }

    /// The journal in `log`; nothing is written yet.
    pub(super) fn new(log: Box<dyn Log>, id: u64, versions: Vec<Arc<Remembered>>) -> Self {
        Self {
            log,
            unsynced: false,
            records: 0,
            id,
            told: versions.iter().map(|version| version.key).collect(),
            versions,
        }
    }

    /// Where it is, for people.
    pub(super) fn path(&self) -> &Path {
        self.log.path()
    }

    /// Notes blocks that left, then some that entered; without waiting for the disk.
    ///
    /// # Errors
    /// What the disk says; then nothing was noted.
    pub(super) fn append(
        &mut self,
        left: &[BlockKey],
        entered: &[(Arc<Remembered>, Resident)],
    ) -> io::Result<()> {
        let mut frames = Vec::new();
        let mut records = left.len();
        let versions = self.versions.len();
        for key in left {
            put(&mut frames, |record| put_left(record, *key));
        }
        for (version, resident) in entered {
            if self.told.insert(version.key) {
                put(&mut frames, |record| put_version(record, version));
                self.versions.push(Arc::clone(version));
                records += 1;
            }
            put(&mut frames, |record| put_entered(record, *resident));
            records += 1;
        }
        if let Err(error) = self.log.append(&frames) {
            for version in self.versions.drain(versions..) {
                self.told.remove(&version.key);
            }
            return Err(error);
        }
        self.unsynced |= !left.is_empty();
        self.records += records;
        Ok(())
    }

    /// Waits until all that was noted to have left is on the disk, with a mark behind it: what
    /// goes bad in front of a mark is no torn tail.
    ///
    /// # Errors
    /// What the disk says. After that a later call proves nothing: the journal is to be written
    /// anew.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.unsynced {
            return Ok(());
        }
        let mut mark = Vec::new();
        put(&mut mark, |record| record.push(SYNCED));
        self.log.append(&mark)?;
        self.records += 1;
        self.log.sync()?;
        self.unsynced = false;
        Ok(())
    }

    /// What it was told of a version.
    pub(super) fn version(&self, key: VersionKey) -> Option<Arc<Remembered>> {
        let mut told = self.versions.iter();
        told.find(|version| version.key == key).cloned()
    }

    /// Whether most of it tells of what is gone: then it should be written anew.
    pub(super) fn is_long(&self, alive: usize) -> bool {
        self.records > 2 * (alive + self.versions.len()) + SLACK
    }

    /// Writes it anew, on the disk when this returns: it tells of `blocks` only.
    ///
    /// # Errors
    /// What the disk says. Which of the two journals a restart finds is open then: it is to be
    /// written anew before a purge may be called done.
    pub(super) fn compact(&mut self, blocks: &[Resident]) -> io::Result<()> {
        let alive: HashSet<VersionKey> = blocks.iter().map(|(key, ..)| key.version).collect();
        let mut kept = self.versions.clone();
        kept.retain(|version| alive.contains(&version.key));
        let id = self.id;
        self.log.replace(&mut |out| {
            let mut frame = Vec::new();
            put(&mut frame, |record| {
                record.extend([ID, FORMAT]);
                record.extend(id.to_le_bytes());
            });
            for version in &kept {
                put(&mut frame, |record| put_version(record, version));
            }
            for resident in blocks {
                put(&mut frame, |record| put_entered(record, *resident));
                out.write_all(&frame)?;
                frame.clear();
            }
            out.write_all(&frame)
        })?;
        self.records = 1 + kept.len() + blocks.len();
        self.told = kept.iter().map(|version| version.key).collect();
        self.versions = kept;
        self.unsynced = false;
        Ok(())
    }

    /// Nothing can be appended from here on, until it is written anew.
    #[cfg(test)]
    pub(super) fn break_file(&mut self) {
        self.log = Box::new(super::files::LogFile::new(self.path()));
    }
}

fn tell(bytes: &[u8]) -> Option<Told> {
    let mut told = Told::default();
    let mut rest = bytes;
    let mut first = true;
    while !rest.is_empty() {
        let Some((record, behind)) = take_frame(rest) else {
            // Torn at the end: nothing good may follow.
            let good = (1..rest.len()).any(|at| take_frame(&rest[at..]).is_some());
            if good || first {
                return None;
            }
            break;
        };
        if first != (record.first() == Some(&ID)) {
            return None;
        }
        first = false;
        take_record(&mut told, record)?;
        rest = behind;
    }
    (!first).then_some(told)
}

fn take_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let checksum = u64::from_le_bytes(bytes.get(4..FRAME)?.try_into().ok()?);
    if len == 0 || len > LARGEST {
        return None;
    }
    let record = bytes.get(FRAME..FRAME + len)?;
    (xxh3_64(record) == checksum).then(|| (record, &bytes[FRAME + len..]))
}

fn take_record(told: &mut Told, record: &[u8]) -> Option<()> {
    let (kind, rest) = record.split_first()?;
    let mut take = Take(rest);
    match *kind {
        ID if take.array()? == [FORMAT] => told.id = u64::from_le_bytes(take.array()?),
        VERSION => told.versions.push(Arc::new(take.version()?)),
        ENTERED => {
            let key = take.key()?;
            let len = u32::from_le_bytes(take.array()?);
            let write = u64::from_le_bytes(take.array()?);
            told.blocks.insert(key, (len, write));
        }
        LEFT => {
            told.blocks.remove(&take.key()?);
        }
        SYNCED => {}
        _ => return None,
    }
    Some(())
}

fn put(frames: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = frames.len();
    frames.extend([0; FRAME]);
    write(frames);
    let record = &frames[start + FRAME..];
    let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
    let checksum = xxh3_64(record);
    frames[start..start + 4].copy_from_slice(&len.to_le_bytes());
    frames[start + 4..start + FRAME].copy_from_slice(&checksum.to_le_bytes());
}

fn put_key(record: &mut Vec<u8>, key: BlockKey) {
    record.extend(key.version.0.to_le_bytes());
    record.extend(key.index.to_le_bytes());
}

fn put_entered(record: &mut Vec<u8>, (key, len, write): Resident) {
    record.push(ENTERED);
    put_key(record, key);
    record.extend(len.to_le_bytes());
    record.extend(write.to_le_bytes());
}

fn put_left(record: &mut Vec<u8>, key: BlockKey) {
    record.push(LEFT);
    put_key(record, key);
}

fn put_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    record.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend(bytes);
}

fn put_version(record: &mut Vec<u8>, version: &Remembered) {
    record.push(VERSION);
    record.extend(version.key.0.to_le_bytes());
    record.extend(version.size.to_le_bytes());
    let object = &version.object;
    put_bytes(record, object.dataset.as_bytes());
    put_bytes(record, object.key.as_bytes());
    record.push(u8::from(object.version_id.is_some()));
    put_bytes(
        record,
        object.version_id.as_deref().unwrap_or("").as_bytes(),
    );
    for (name, value) in &version.headers {
        put_bytes(record, name.as_str().as_bytes());
        put_bytes(record, value.as_bytes());
    }
}

/// Reads a record's parts; `None` where it ends early.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(len)?;
        self.0 = later;
        Some(now)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        self.slice(len)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.into())
    }

    fn key(&mut self) -> Option<BlockKey> {
        Some(BlockKey {
            version: VersionKey(u128::from_le_bytes(self.array()?)),
            index: u32::from_le_bytes(self.array()?),
        })
    }

    fn version(&mut self) -> Option<Remembered> {
        let key = VersionKey(u128::from_le_bytes(self.array()?));
        let size = u64::from_le_bytes(self.array()?);
        let mut object = ObjectId::new(self.text()?, self.text()?);
        let named = self.array::<1>()? == [1];
        object.version_id = Some(self.text()?).filter(|_| named);
        let mut headers = HeaderMap::new();
        while !self.0.is_empty() {
            let name = HeaderName::from_bytes(self.bytes()?).ok()?;
            let value = HeaderValue::from_bytes(self.bytes()?).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(Remembered {
            object,
            key,
            size,
            headers,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::nvme::files::LogFile;
    use crate::nvme::tests::Scratch;

    fn key(index: u32) -> BlockKey {
        BlockKey {
            version: VersionKey(9),
            index,
        }
    }

    fn version() -> Arc<Remembered> {
        let mut object = ObjectId::new("models", "a/ü");
        object.version_id = Some("v1".into());
        let mut headers = HeaderMap::new();
        headers.insert("etag", "\"x\"".parse().unwrap());
        Arc::new(Remembered {
            object,
            key: VersionKey(9),
            size: 3 << 20,
            headers,
        })
    }

    fn read_back(path: &Path) -> Told {
        Journal::read(&LogFile::new(path))
            .unwrap()
            .unwrap()
            .unwrap()
    }

    fn written(path: &Path) -> Journal {
        let mut journal = Journal::new(Box::new(LogFile::new(path)), 5, Vec::new());
        journal.compact(&[]).unwrap();
        let entered = [0, 1, 2].map(|index| (version(), (key(index), 10 + index, 7)));
        journal.append(&[], &entered).unwrap();
        journal.append(&[key(1)], &[]).unwrap();
        journal
    }

    #[test]
    fn what_was_noted_is_told() {
        let scratch = Scratch::new();
        let path = scratch.path().join("blocks.log");
        assert!(Journal::read(&LogFile::new(&path)).unwrap().is_none());
        let mut journal = written(&path);
        journal.sync().unwrap();
        let told = read_back(&path);
        assert_eq!(told.id, 5);
        assert_eq!(told.versions, [version()]);
        assert_eq!(
            told.blocks,
            HashMap::from([(key(0), (10, 7)), (key(2), (12, 7))])
        );
        journal.compact(&[(key(2), 12, 7)]).unwrap();
        let entered = (version(), (key(7), 1, 8));
        journal.append(&[], &[entered]).unwrap();
        let told = read_back(&path);
        assert_eq!(told.versions.len(), 1);
        assert_eq!(
            told.blocks,
            HashMap::from([(key(2), (12, 7)), (key(7), (1, 8))])
        );
    }

    #[test]
    fn a_torn_tail_costs_what_it_told_and_nothing_else() {
        let scratch = Scratch::new();
        let path = scratch.path().join("blocks.log");
        written(&path);
        let whole = fs::read(&path).unwrap();
        for end in whole.len() - 20..whole.len() {
            let told = tell(&whole[..end]).unwrap();
            assert_eq!(
                told.blocks.len(),
                3,
                "cut at {end}: what left is still there"
            );
        }
        let mut zeros = whole.clone();
        zeros.extend([0; 5000]);
        assert_eq!(tell(&zeros).unwrap().blocks.len(), 2);
    }

    #[test]
    fn a_bad_record_with_good_ones_behind_it_discredits_all() {
        let scratch = Scratch::new();
        let path = scratch.path().join("blocks.log");
        written(&path);
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - (FRAME + 21);
        for at in 0..last {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(tell(&flipped).is_none(), "byte {at}");
        }
    }
    #[test]
    fn damage_to_a_purge_that_was_answered_discredits_all() {
        let scratch = Scratch::new();
        let path = scratch.path().join("blocks.log");
        written(&path).sync().unwrap();
        let whole = fs::read(&path).unwrap();
        let mark = FRAME + 1;
        for at in whole.len() - mark - (FRAME + 21)..whole.len() - mark {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(tell(&flipped).is_none(), "byte {at}");
        }
        for at in whole.len() - mark..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert_eq!(tell(&flipped).unwrap().blocks.len(), 2, "byte {at}");
        }
    }

    #[test]
    fn a_version_longer_than_a_record_does_not_fit() {
        assert!(version().fits());
        let mut long = Remembered::clone(&version());
        long.object = ObjectId::new("models", "a".repeat(LARGEST).as_str());
        assert!(!long.fits());
    }
}
