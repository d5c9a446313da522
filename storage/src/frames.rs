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
//! Whoever copies out of pages of 4 KiB misses the TLB for each of them, and whoever writes to one for
//! the first time waits until the kernel has zeroed it. So [`Frames::keep`] has the kernel make the
//! frames that are lent next, in huge pages where it can, a little ahead of their being lent. Only then:
//! a huge page that is made when its first frame is written is zeroed as a whole in the way of a read,
//! and one that is made again around a frame that went back keeps 2 MiB resident for it.
//!
//! A frame that goes back out of a huge page is gone from the process's resident size at once. The kernel has its
//! memory back when it is short of it, or when the last frame of that page goes; until then what it counts
//! for a control group is more than what is resident.
//!
//! This is the one module of this crate with `unsafe` in it: the proof stands at each place.

#![allow(
    unsafe_code,
    reason = "measured: no allocator keeps the bound with pieces of 64 KiB"
)]

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use tokio::sync::Notify;

use crate::SEGMENT;

/// The size of a huge page: x86-64's, and ARM's with small pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Frames in a huge page.
const TOGETHER: u32 = (HUGE / SEGMENT) as u32;

/// Frames that are made at once: the kernel takes a millisecond or so.
const BATCH: u32 = 4 * TOGETHER;

/// Free frames that are to be resident, made ahead or back and warm, if that is no more than a sixteenth of all.
const AHEAD: usize = (64 << 20) / SEGMENT;

/// Free frames that stay resident are a sixteenth of all, those that were made ahead among them: within
/// the tenth that resident memory may be above the bound, should everything else that is leased be short
/// pieces. Beyond that a frame costs a call to the kernel when it comes back and 16 page faults when it
/// is lent again.
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
    /// How far behind the mapping's own start that is: frames start at a multiple of [`HUGE`].
    skipped: usize,
    count: usize,
    /// Frames that are kept resident though they are free.
    warm: usize,
    free: Mutex<Free>,
    /// Told when a frame is lent that nobody had before.
    lent_fresh: Notify,
}

#[derive(Debug, Default)]
struct Free {
    /// Free and resident, the latest last.
    warm: Vec<u32>,
    /// Free and given back to the kernel.
    cold: Vec<u32>,
    /// Frames from here on were never lent.
    fresh: u32,
    /// Frames from here on were not made ahead.
    made: u32,
}

// SAFETY: `start` is the address of a mapping that lives as long as the region. Its bytes are reached only
// through frames, each of which is lent to one `Frame` at a time; advice changes none of those that are
// lent; the tables are behind a lock.
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
        let (start, skipped) = Region::map(count * SEGMENT).unzip();
        Self(Arc::new(Region {
            start,
            skipped: skipped.unwrap_or(0),
            count: start.map_or(0, |_| count),
            warm: WARM_LEAST.min(count / 8).max(count / WARM_SHARE),
            free: Mutex::default(),
            lent_fresh: Notify::new(),
        }))
    }

    /// A frame to write a segment into, or nothing where all are lent.
    pub fn take(&self) -> Option<Frame> {
        let (index, is_fresh) = self.0.lock().take(self.0.count)?;
        if is_fresh {
            self.0.lent_fresh.notify_one();
        }
        Some(Frame {
            region: Arc::clone(&self.0),
            index,
        })
    }

    /// Has the kernel make the frames that are lent next, until all were lent once or it can't. It may
    /// be dropped at any time: then frames are made as they are written.
    pub async fn keep(self) {
        loop {
            while let Some(frames) = self.0.next_to_make() {
                let region = Arc::clone(&self.0);
                let made = tokio::task::spawn_blocking(move || region.make(frames)).await;
                if !matches!(made, Ok(true)) {
                    return;
                }
            }
            if self.0.are_made() {
                return;
            }
            self.0.lent_fresh.notified().await;
        }
    }
}

impl Free {
    /// A frame of `count`, resident ones first, and whether nobody had it before.
    fn take(&mut self, count: usize) -> Option<(u32, bool)> {
        if let Some(index) = self.warm.pop() {
            return Some((index, false));
        }
        if self.fresh >= self.made
            && let Some(index) = self.cold.pop()
        {
            return Some((index, false));
        }
        let fresh = ((self.fresh as usize) < count).then_some(self.fresh)?;
        self.fresh += 1;
        Some((fresh, true))
    }

    /// Frames that are free and resident.
    fn resident(&self) -> usize {
        self.warm.len() + self.made.saturating_sub(self.fresh) as usize
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
    /// A new mapping with `len` bytes from a multiple of [`HUGE`] on, and what is skipped before it.
    fn map(len: usize) -> Option<(NonNull<u8>, usize)> {
        if len == 0 {
            return None;
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let whole = len.checked_add(HUGE)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                whole,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        let mapped = NonNull::new(mapped.ok()?.cast::<u8>())?;
        // A kernel without huge pages refuses the advice, and that is as good.
        // SAFETY: the range is the mapping just made; this advice changes no byte of it.
        let _ = unsafe { madvise(mapped.as_ptr().cast(), whole, Advice::LinuxNoHugepage) };
        let skipped = mapped.addr().get().wrapping_neg() % HUGE;
        // SAFETY: less than `HUGE` is skipped, so `len` bytes of the mapping are left.
        Some((unsafe { mapped.add(skipped) }, skipped))
    }

    /// The frames to be made next, if it is time, from the start of a huge page on: nobody has written to them.
    fn next_to_make(&self) -> Option<Range<u32>> {
        let mut free = self.lock();
        let ahead = AHEAD.min(self.count / WARM_SHARE);
        let lacking = ahead.saturating_sub(free.resident());
        let from = free.made.max(free.fresh.next_multiple_of(TOGETHER));
        if lacking == 0 || from as usize >= self.count {
            return None;
        }
        let together = TOGETHER as usize;
        let frames = lacking.next_multiple_of(together).min(BATCH as usize);
        // Invariant: `count` fits.
        let to = (from as usize + frames).min(self.count);
        free.made = u32::try_from(to).unwrap_or(u32::MAX);
        Some(from..free.made)
    }

    /// Whether none is left that nobody has made or written to.
    fn are_made(&self) -> bool {
        let free = self.lock();
        free.made.max(free.fresh) as usize >= self.count
    }

    /// Has the kernel make these frames; false: it can't. Others may write to them meanwhile.
    fn make(&self, frames: Range<u32>) -> bool {
        let start = self.frame(frames.start).as_ptr().cast();
        let len = frames.len() * SEGMENT;
        // SAFETY: the range is within the mapping; what is populated keeps its bytes, and the other
        // advice changes none (madvise(2)).
        unsafe {
            let _ = madvise(start, len, Advice::LinuxHugepage);
            let made = madvise(start, len, Advice::LinuxPopulateWrite);
            let _ = madvise(start, len, Advice::LinuxNoHugepage);
            made.inspect_err(|error| tracing::debug!(%error, "no more memory is made ahead"))
                .is_ok()
        }
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
        if free.resident() < self.warm {
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
            // SAFETY: this is the mapping as it was made. Every `Frame` holds the region, so none is
            // left, and nobody else knows the address.
            let _ = unsafe {
                let mapped = start.sub(self.skipped);
                munmap(mapped.as_ptr().cast(), self.count * SEGMENT + HUGE)
            };
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

    /// Resident KiB of the frames' mapping.
    fn resident(frames: &Frames) -> usize {
        let start = frames.0.start.unwrap().addr().get();
        let within = start..start + frames.0.count * SEGMENT;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut ours, mut sum) = (false, 0);
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            let bounds = first.split_once('-').and_then(|(from, to)| {
                let number = |text| usize::from_str_radix(text, 16).ok();
                Some(number(from)?..number(to)?)
            });
            if let Some(bounds) = bounds {
                ours = bounds.start < within.end && within.start < bounds.end;
            } else if ours && first == "Rss:" {
                sum += words
                    .next()
                    .and_then(|number| number.parse().ok())
                    .unwrap_or(0);
            }
        }
        sum
    }

    #[test]
    fn what_is_made_is_resident_zeros_and_leaves_what_was_written() {
        let frames = Frames::new(8 * HUGE as u64);
        let mut first = frames.take().unwrap();
        first.fill(7);
        let before = resident(&frames);
        assert!(before <= HUGE / 1024, "{before}");
        assert!(frames.0.make(0..2 * TOGETHER), "needs Linux 5.14");
        assert_eq!(resident(&frames), 2 * HUGE / 1024);
        assert!(first.iter().all(|byte| *byte == 7));
        let others: Vec<_> = (1..2 * TOGETHER).map(|_| frames.take().unwrap()).collect();
        let mut bytes = others.iter().flat_map(|frame| frame.iter());
        assert!(bytes.all(|byte| *byte == 0));
    }

    #[tokio::test]
    async fn frames_are_made_until_all_were_lent_once() {
        let frames = Frames::new(1 << 30);
        let keeping = tokio::spawn(frames.clone().keep());
        let made = || frames.0.lock().made;
        while made() < AHEAD as u32 {
            assert!(!keeping.is_finished(), "needs Linux 5.14");
            tokio::task::yield_now().await;
        }
        let one = frames.take().unwrap();
        while made() == AHEAD as u32 {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = std::iter::from_fn(|| frames.take()).collect();
        keeping.await.unwrap();
        assert_eq!(rest.len() * SEGMENT, (1 << 30) - one.len());
    }

    #[test]
    fn frames_are_made_a_little_ahead_of_their_being_lent() {
        let frames = Frames::new(1 << 30);
        let made = || std::iter::from_fn(|| frames.0.next_to_make()).last();
        let ahead = AHEAD as u32;
        assert_eq!(made(), Some(ahead - BATCH..ahead));
        assert_eq!(made(), None);
        let one = frames.take();
        assert_eq!(made(), Some(ahead..ahead + TOGETHER));
        // Who was faster than the kernel waits for nobody; what was begun is not made anew.
        let many: Vec<_> = (0..ahead + BATCH).map(|_| frames.take()).collect();
        let next = frames.0.next_to_make().unwrap();
        assert_eq!(next.start, (ahead + BATCH + 1).next_multiple_of(TOGETHER));
        drop((one, many));
    }

    #[test]
    fn free_frames_that_are_resident_are_a_sixteenth_those_made_ahead_among_them() {
        let frames = Frames::new(1 << 30);
        let made = || std::iter::from_fn(|| frames.0.next_to_make()).last();
        made();
        let lent: Vec<_> = (0..4 * AHEAD).map(|_| frames.take().unwrap()).collect();
        made();
        drop(lent);
        assert_eq!(frames.0.lock().resident(), frames.0.warm);
        assert_eq!(frames.0.warm, frames.0.count / WARM_SHARE);
        assert_eq!(made(), None);
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
