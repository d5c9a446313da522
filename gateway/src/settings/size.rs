//! SIZE: a number of bytes, as people write it and as they are shown it.

/// Units with their bytes; the smaller ones come first.
const UNITS: [(&str, u64); 8] = [
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

const HOW: &str = "write bytes as a whole number, or a whole number with KiB, MiB, GiB, TiB, kB, \
                   MB, GB or TB, such as \"8GiB\"";

/// Bytes of a size such as `8GiB`, `500 MB` or `1048576`.
///
/// # Errors
/// A clause that follows the setting's name.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("is not a size: {HOW}"));
    }
    let unit = unit.trim_start_matches(' ');
    let scale = match UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, scale)) => *scale,
        None if unit.is_empty() => 1,
        None => return Err(unknown_unit(unit)),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale));
    bytes.ok_or_else(|| "is too large a size: 64 bits hold at most 16777215TiB".into())
}

fn unknown_unit(unit: &str) -> String {
    let meant = |(name, _): &&(&str, u64)| {
        // `8G`, `8Gi`, `8gb`: binary units for memory unless the two letters of a decimal one stand
        // there.
        let (name, unit) = (name.to_lowercase(), unit.to_lowercase());
        name == unit || (name.contains('i') && [&name[..1], &name[..2]].contains(&unit.as_str()))
    };
    match UNITS.iter().find(meant) {
        Some((name, _)) => {
            format!("has the unit `{unit}`, which is not known: did you mean {name}?")
        }
        None => format!("is not a size: {HOW}"),
    }
}

/// `bytes` for a reader: in the largest binary unit that it fills, with at most one decimal.
pub fn shown(bytes: u64) -> String {
    let binary = UNITS.iter().rev().filter(|(name, _)| name.contains('i'));
    for (name, scale) in binary {
        let (whole, rest) = (bytes / scale, bytes % scale);
        match (whole, rest * 10 / scale) {
            (0, _) => {}
            (_, 0) => return format!("{whole} {name}"),
            (_, tenths) => return format!("{whole}.{tenths} {name}"),
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("3KiB", 3 << 10),
            ("3MiB", 3 << 20),
            ("8GiB", 8 << 30),
            ("1TiB", 1 << 40),
            ("3kB", 3_000),
            ("3MB", 3_000_000),
            ("3 GB", 3_000_000_000),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_64_bits_is_refused() {
        assert_eq!(parse("16777215TiB"), Ok(16_777_215 << 40));
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
        for text in [
            "16777216TiB",
            "18446744073709551616",
            "99999999999999999999999kB",
        ] {
            assert!(
                parse(text).is_err_and(|clause| clause.contains("too large")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_near_unit_is_named() {
        for (text, unit) in [
            ("8G", "GiB"),
            ("8gb", "GB"),
            ("8Gi", "GiB"),
            ("64m", "MiB"),
            ("1KB", "kB"),
        ] {
            assert!(
                parse(text).is_err_and(|clause| clause.ends_with(&format!("mean {unit}?"))),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_are_not_sizes() {
        for text in [
            "", "GiB", "-1", "1.5GiB", "1e9", "8 bytes", " 8GiB", "8GiB ",
        ] {
            assert!(
                parse(text).is_err_and(|clause| clause.contains("not a size")),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_they_fill() {
        assert_eq!(shown(0), "0 bytes");
        assert_eq!(shown(1023), "1023 bytes");
        assert_eq!(shown(64 << 20), "64 MiB");
        assert_eq!(shown((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!(shown(u64::MAX), "16777215.9 TiB");
    }
}
