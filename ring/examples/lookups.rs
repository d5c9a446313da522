//! What a look-up costs while a table of 1000 members is rebuilt: `cargo run --release --example lookups`.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_ring::{Member, MemberError, Table};
use tokio::time::Instant;

fn members(count: usize) -> Result<Vec<Member>, MemberError> {
    (0..count)
        .map(|n| {
            Member::new(
                format!("gw-{n}"),
                format!("zone-{}", n % 3),
                NonZeroU16::MIN,
            )
        })
        .collect()
}

/// Microseconds of the median and the 99th in a hundred of look-ups, over objects of 64 extents.
fn look_up(table: &Table, going: impl Fn(usize) -> bool) -> (usize, f64, f64) {
    let mut times = Vec::new();
    while going(times.len()) {
        let key = format!("model-{:05}.safetensors", times.len() / 64 % 500);
        let started = Instant::now();
        let owner = table.owner("models", &key, times.len() as u64 % 64, 64);
        times.push(started.elapsed());
        assert!(owner.is_some());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_nanos() as f64 / 1e3;
    (times.len(), at(50), at(99))
}

fn main() -> Result<(), MemberError> {
    let started = Instant::now();
    let table = Table::build(members(1000)?);
    println!(
        "a table of 1000 members is built in {:?}",
        started.elapsed()
    );
    let (count, median, p99) = look_up(&table, |count| count < 500_000);
    println!("quiet: {count} look-ups, median {median:.2} µs, p99 {p99:.2} µs");
    let done = AtomicBool::new(false);
    let more = members(1001)?;
    let (count, median, p99) = std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(Table::build(more));
            done.store(true, Ordering::Release);
        });
        look_up(&table, |count| {
            count < 1000 || !done.load(Ordering::Acquire)
        })
    });
    println!("during a rebuild: {count} look-ups, median {median:.2} µs, p99 {p99:.2} µs");
    Ok(())
}
