//! What must hold of any bytes that are found where the journal was written.

use super::{FORMAT, ID, Told, put, put_entered, put_version, tell};

/// Reads `bytes` as a journal. An odd first byte makes records of what is behind it, each led by its length, and
/// frames them with the checksums that chance would not find.
///
/// # Panics
/// If a journal that is written anew from what was told tells something else.
pub fn journal(bytes: &[u8]) {
    let Some((mode, bytes)) = bytes.split_first() else {
        return;
    };
    let file = if mode & 1 == 1 {
        framed(bytes)
    } else {
        bytes.to_vec()
    };
    let Some(told) = tell(&file) else {
        return;
    };
    let again = tell(&anew(&told)).expect("what we write can be believed");
    assert_eq!(again.id, told.id);
    assert_eq!(again.versions, told.versions);
    assert_eq!(again.blocks, told.blocks);
}

fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, |record| {
        record.extend([ID, FORMAT, 1, 2, 3, 4, 5, 6, 7, 8]);
    });
    while let Some((len, behind)) = rest.split_first() {
        let (record, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        put(&mut file, |frame| frame.extend(record));
        rest = behind;
    }
    file
}

fn anew(told: &Told) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, |record| {
        record.extend([ID, FORMAT]);
        record.extend(told.id.to_le_bytes());
    });
    for version in &told.versions {
        put(&mut file, |record| put_version(record, version));
    }
    for (key, (len, write)) in &told.blocks {
        put(&mut file, |record| {
            put_entered(record, (*key, *len, *write));
        });
    }
    file
}
