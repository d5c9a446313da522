//! One set-up measured several times: the median counts, and every failure.

use super::sheet::Row;

/// Measures at the largest of `counts` three times, at another once.
///
/// # Errors
/// A run could not be measured.
pub(super) async fn median(
    count: usize,
    counts: &[usize],
    mut once: impl AsyncFnMut() -> anyhow::Result<Row>,
) -> anyhow::Result<Row> {
    let largest = counts.iter().max() == Some(&count);
    let mut rows = vec![once().await?];
    if largest {
        for _ in 0..2 {
            rows.push(once().await?);
        }
    }
    let row = middle(rows);
    eprintln!(
        "{}, {} gateways: last reader {:.2} s, {} failed",
        row.name,
        row.gateways,
        row.last(),
        row.failed + row.wrong
    );
    Ok(row)
}

/// The row whose last reader is the median, told of what failed in the others.
fn middle(mut rows: Vec<Row>) -> Row {
    rows.sort_by(|one, other| one.last().total_cmp(&other.last()));
    let row = rows.remove(rows.len() / 2);
    rows.iter().fold(row, Row::with_failures_of)
}

#[cfg(test)]
mod tests {
    use super::super::sheet::tests::row;
    use super::*;

    #[tokio::test]
    async fn three_runs_at_the_largest_count_and_one_at_others() {
        let mut times = [3.0, 9.0, 2.0, 5.0].into_iter();
        let mut once = async || Ok(row("mapped", 8, &[times.next().expect("four runs")], 1.0));
        let largest = median(8, &[1, 8], &mut once).await.expect("measured");
        assert!((largest.last() - 3.0).abs() < 1e-9);
        let other = median(1, &[1, 8], &mut once).await.expect("measured");
        assert!((other.last() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn what_fails_in_any_run_is_a_miss() {
        let mut bad = row("mapped", 8, &[9.0], 1.0);
        bad.failed = 1;
        let rows = vec![
            row("mapped", 8, &[1.0], 1.0),
            bad,
            row("mapped", 8, &[2.0], 1.0),
        ];
        let middle = middle(rows);
        assert!((middle.last() - 2.0).abs() < 1e-9);
        assert!(!middle.report.met());
    }
}
