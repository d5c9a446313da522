//! What the client counts, and what it picks.

use super::*;

#[test]
fn the_most_popular_is_asked_for_in_proportion_to_its_rank() {
    let objects = Objects::new(1 << 20, 1000);
    let mut random = StdRng::seed_from_u64(7);
    let mut counts = vec![0_u32; 1000];
    for _ in 0..100_000 {
        counts[objects.popular(&mut random)] += 1;
    }
    // Of 1000 ranks the first has 1 ÷ 7.49 of all, the second half of that.
    assert!((13_000..13_700).contains(&counts[0]), "{}", counts[0]);
    assert!((6_400..6_950).contains(&counts[1]), "{}", counts[1]);
}

#[test]
fn the_time_between_two_looks_is_idle_unless_something_came() {
    let (counters, start) = (Counters::default(), Instant::now());
    let step = Duration::from_millis(2);
    let first = counters.look(start);
    let second = counters.look(start + step);
    assert_eq!(first.idle(&second), step);
    counters.bytes.fetch_add(1, Ordering::Relaxed);
    let third = counters.look(start + 2 * step);
    assert_eq!(second.idle(&third), Duration::ZERO);
    counters.requests.fetch_add(1, Ordering::Relaxed);
    assert_eq!(third.idle(&counters.look(start + 3 * step)), Duration::ZERO);
}

#[test]
fn random_reads_lie_in_the_object() {
    let objects = Objects::new(10 << 20, 1);
    let mut picker = Picker::new(Access::Random(1 << 20), &objects, 7);
    for _ in 0..100 {
        let ask = picker.next();
        assert!(ask.offset + ask.length <= 10 << 20 && ask.offset.is_multiple_of(1 << 20));
    }
}
