//! What must hold of any bytes that are found where a block was written.

use super::{HEAD, LARGEST, MAGIC, Stored};
use crate::SEGMENT;
use crate::nvme::layout::is_layout;

/// Reads `bytes` as an entry of the block files. An odd first byte has the magic and the length
/// put right, which chance would not find.
///
/// # Panics
/// If what passes is not, to the byte, what would be written for it.
pub fn disk_block(bytes: &[u8]) {
    let Some((mode, bytes)) = bytes.split_first() else {
        return;
    };
    let _ = is_layout(bytes);
    let sealed = (mode & 1 == 1).then(|| sealed(bytes)).flatten();
    let bytes = sealed.as_deref().unwrap_or(bytes);
    let read = Stored::read(&mut &*bytes);
    if sealed.is_some() {
        assert!(read.as_ref().is_ok_and(|stored| stored.intact));
    }
    let Some(stored) = read.ok().filter(|stored| stored.intact) else {
        return;
    };
    let mut again = Vec::new();
    stored.put(&mut again).expect("memory takes it");
    assert!(bytes.starts_with(&again));
    assert!(stored.len() <= LARGEST as usize);
    let whole = stored
        .segments
        .split_last()
        .map_or(&[][..], |(_, before)| before);
    assert!(whole.iter().all(|segment| segment.len() == SEGMENT));
}

fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let body = bytes.len().checked_sub(HEAD)?.min(LARGEST as usize);
    let mut entry = bytes[..HEAD + body].to_vec();
    entry[..4].copy_from_slice(&MAGIC.to_le_bytes());
    let len = u32::try_from(body).expect("no longer than the largest block");
    entry[40..HEAD].copy_from_slice(&len.to_le_bytes());
    Some(entry)
}
