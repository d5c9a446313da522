//! Memory for whole segments: one mapping as large as the bound, cut into frames of 64 KiB.
//!
//! A bound that is kept by counting leases is only as good as what the allocator does with the
//! memory that comes back. Pieces of 64 KiB are bad for a general one: with 256 MiB of them leased,
//! mimalloc held 100 to 150 MiB more, whatever it was told about giving pages back, and glibc with
//! a mapping a piece paid for it in page faults. Here a frame is either lent out, or among the few
//! that are kept warm for the next fill, or given back to the kernel at once; so what is resident
//! is what is leased, and a little.
//!
//! Frames are never split, and pieces that are shorter than a segment (a small object, an object's
//! end) come from the allocator.
//!
//! Huge pages, made ahead of their being lent, were no faster on any row of the bench of hot reads, and are refused.
//!
//! This is the one module of this crate with `unsafe` in it: the proof stands at each place.

#![allow(
    unsafe_code,
    reason = "measured: no allocator keeps the bound with pieces of 64 KiB"
)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::SEGMENT;

/// Free frames that stay resident are a sixteenth of all: within the tenth that resident memory may
/// be above the bound, should everything else that is leased be short pieces. Beyond that a frame
/// costs a call to the kernel when it comes back and 16 page faults when it is lent again.
const WARM_SHARE: usize = 16;

/// The least of them: as much as is read from the disk at once, but no more than an eighth of all.
const WARM_LEAST: usize = (16 << 20) / SEGMENT;

/// The frames of one store.
#[derive(Clone)]
pub struct Frames(Arc<Region>);

/// A mapping and which of its frames are free.
struct Region {
    /// None where nothing could be mapped: then every piece comes from the allocator.
    start: Option<NonNull<u8>>,
    count: usize,
    /// Frames that are kept resident though they are free.
    warm: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Free and resident, the latest last.
    warm: Vec<u32>,
    /// Free and given back to the kernel.
    cold: Vec<u32>,
    /// Frames from here on were never lent.
    fresh: u32,
}

// SAFETY: `start` is the address of a mapping that lives as long as the region and is reached only
// through frames, each of which is lent to one `Frame` at a time; the tables are behind a lock.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Frames {
    /// Frames for `bytes`, of which none is resident yet. Where the kernel maps no region of that
    /// size, there are none, and [`Frames::take`] says so.
    pub fn new(bytes: u64) -> Self {
        let count = usize::try_from(bytes / SEGMENT as u64).unwrap_or(usize::MAX);
        let count = count
            .min(u32::MAX as usize)
            .min(isize::MAX as usize / SEGMENT);
        let start = Region::map(count * SEGMENT);
        Self(Arc::new(Region {
            start,
            count: start.map_or(0, |_| count),
            warm: WARM_LEAST.min(count / 8).max(count / WARM_SHARE),
            free: Mutex::default(),
        }))
    }

    /// A frame to write a segment into, or nothing where all are lent.
    pub fn take(&self) -> Option<Frame> {
        let mut free = self.0.lock();
        let index = free.warm.pop().or_else(|| free.cold.pop());
        let index = match index {
            Some(index) => index,
            None if (free.fresh as usize) < self.0.count => {
                free.fresh += 1;
                free.fresh - 1
            }
            None => return None,
        };
        drop(free);
        Some(Frame {
            region: Arc::clone(&self.0),
            index,
        })
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.0.lock();
        f.debug_struct("Frames")
            .field("count", &self.0.count)
            .field("warm", &free.warm.len())
            .field("cold", &free.cold.len())
            .finish()
    }
}

impl Region {
    fn map(len: usize) -> Option<NonNull<u8>> {
        if len == 0 {
            return None;
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        let start = NonNull::new(start.ok()?.cast::<u8>())?;
        // Huge pages would keep 2 MiB resident for one frame of it. A kernel without them refuses
        // the advice, and that is as good.
        // SAFETY: the range is the mapping just made; this advice changes no byte of it.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxNoHugepage) };
        Some(start)
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where frame `index` starts.
    fn frame(&self, index: u32) -> NonNull<u8> {
        debug_assert!((index as usize) < self.count);
        // Invariant: frames are lent only where there is a mapping.
        let start = self.start.unwrap_or(NonNull::dangling());
        // SAFETY: `index` is below `count`, so the frame lies within the mapping, whose size fits
        // an `isize`.
        unsafe { start.add(index as usize * SEGMENT) }
    }

    fn put_back(&self, index: u32) {
        let mut free = self.lock();
        if free.warm.len() < self.warm {
            free.warm.push(index);
            return;
        }
        drop(free);
        // SAFETY: the frame is in neither table and its `Frame` is being dropped, so nobody reads
        // or writes it; its bytes are zeros afterwards, which is as good as any others.
        let _ = unsafe {
            madvise(
                self.frame(index).as_ptr().cast(),
                SEGMENT,
                Advice::LinuxDontNeed,
            )
        };
        self.lock().cold.push(index);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: every `Frame` holds the region, so none is left, and nobody else knows the
            // address.
            let _ = unsafe { munmap(start.as_ptr().cast(), self.count * SEGMENT) };
        }
    }
}

/// 64 KiB that are one holder's until this is dropped.
pub struct Frame {
    region: Arc<Region>,
    index: u32,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Frame").field(&self.index).finish()
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the frame lies within the mapping, is initialised (the kernel's pages are zeros
        // until they are written), and is lent to this value alone, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.region.frame(self.index).as_ptr(), SEGMENT) }
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this value is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.region.frame(self.index).as_ptr(), SEGMENT) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.region.put_back(self.index);
    }
}

/// A segment while it is written: a frame, or what the allocator gives where it is shorter.
#[derive(Debug)]
pub struct Buffer {
    place: Place,
    /// Bytes written so far.
    len: usize,
}

#[derive(Debug)]
enum Place {
    Frame(Frame),
    Heap(Box<[u8]>),
}

impl Buffer {
    /// Room for `len` bytes, at most a segment.
    pub fn new(frames: &Frames, len: usize) -> Self {
        debug_assert!(len <= SEGMENT);
        let frame = (len == SEGMENT).then(|| frames.take()).flatten();
        let place = match frame {
            Some(frame) => Place::Frame(frame),
            None => Place::Heap(vec![0; len].into()),
        };
        Self { place, len: 0 }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    pub fn left(&self) -> usize {
        self.whole().len() - self.len
    }

    /// The room that is left; what is written there counts once [`Buffer::advance`] was told.
    pub fn room(&mut self) -> &mut [u8] {
        let len = self.len;
        match &mut self.place {
            Place::Frame(frame) => &mut frame[len..],
            Place::Heap(bytes) => &mut bytes[len..],
        }
    }

    /// Counts `bytes` of the room as written.
    ///
    /// # Panics
    /// If there is less room.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.left());
        self.len += bytes;
    }

    /// Writes as much of `bytes` as fits, and says how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let now = bytes.len().min(self.left());
        self.room()[..now].copy_from_slice(&bytes[..now]);
        self.len += now;
        now
    }

    fn whole(&self) -> &[u8] {
        match &self.place {
            Place::Frame(frame) => frame,
            Place::Heap(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.whole()[..self.len]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frame_is_one_holders_until_it_comes_back() {
        let frames = Frames::new(2 * SEGMENT as u64 + 5);
        let mut one = frames.take().unwrap();
        let mut two = frames.take().unwrap();
        assert!(frames.take().is_none());
        one.fill(1);
        two.fill(2);
        assert!(one.iter().all(|byte| *byte == 1) && two.iter().all(|byte| *byte == 2));
        drop(one);
        assert_eq!(frames.take().unwrap().len(), SEGMENT);
        assert!(two.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn what_comes_back_beyond_the_warm_ones_is_not_resident() {
        let count = 8 * WARM_LEAST;
        let frames = Frames::new((count * SEGMENT) as u64);
        let mut lent: Vec<_> = (0..count).map(|_| frames.take().unwrap()).collect();
        for frame in &mut lent {
            frame.fill(7);
        }
        lent.clear();
        // Those that are warm come first, and hold what they held; the kernel's are zeros.
        let again: Vec<_> = (0..count).map(|_| frames.take().unwrap()).collect();
        let kept = again.iter().filter(|frame| frame[SEGMENT - 1] == 7).count();
        assert_eq!(kept, WARM_LEAST);
        assert!(again[WARM_LEAST..].iter().all(|frame| frame[0] == 0));
    }

    #[test]
    fn a_buffer_takes_what_fits() {
        let frames = Frames::new(SEGMENT as u64);
        for len in [5, SEGMENT] {
            let mut buffer = Buffer::new(&frames, len);
            assert_eq!(buffer.fill(&[1; 3]), 3);
            assert_eq!(buffer.fill(&vec![2; SEGMENT]), len - 3);
            assert_eq!((buffer.left(), buffer.len()), (0, len));
            assert_eq!(&buffer.as_ref()[..5], [1, 1, 1, 2, 2]);
        }
    }

    #[test]
    fn without_a_mapping_the_allocator_serves() {
        let frames = Frames::new(0);
        let mut buffer = Buffer::new(&frames, SEGMENT);
        assert!(buffer.is_empty());
        assert_eq!(buffer.fill(&[9; SEGMENT]), SEGMENT);
        assert_eq!(buffer.as_ref(), [9; SEGMENT]);
    }
}
