//! What is read ahead, for whom, and what is not.

use std::process::Command;
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::until;

const PART: usize = 8 * BLOCK;

const SIZE: usize = 6 * PART;

/// A gateway over nginx, with an object of [`SIZE`] bytes under each of these keys.
fn stage(keys: &[&str]) -> (Gateway, Nginx, Vec<u8>) {
    let origin = Nginx::start();
    let bytes = oracle::bytes("a.bin", 1, SIZE);
    for key in keys {
        origin.put(key, &bytes);
    }
    let models = Dataset::new("models", origin.url(Mood::Plain)).line("fresh_for = \"10m\"");
    // An eighth of it is for what streams have under way, and must hold an object.
    let setup = Setup::of([models]).cache("memory = \"512MiB\"");
    (setup.start(), origin, bytes)
}

/// Reads `range` of an object, by a connection of its own, and says what the cache had of it.
fn read(gateway: &Gateway, key: &str, bytes: &[u8], range: std::ops::Range<usize>) -> String {
    let asked = format!("bytes={}-{}", range.start, range.end - 1);
    let answer = gateway.range(&format!("/models/{key}"), &asked).expect(206);
    assert_bytes(&asked, &answer.body, &bytes[range]);
    answer.need("cache-status").to_owned()
}

/// Waits until exactly so many bytes came from the origin and are cached, and nothing is under way.
fn settled(gateway: &Gateway, bytes: usize) {
    until(Duration::from_secs(20), "the fills to end", || {
        let cached = gateway.metric("forebay_cache_bytes", &[("tier", "memory")]);
        let running = gateway.metric("forebay_running_fills", &[]);
        (cached >= bytes as f64 && running == 0.0).then_some(())
    });
    assert_eq!(
        gateway.metric("forebay_origin_bytes_total", &[]),
        bytes as f64
    );
}

#[test]
fn parts_by_many_connections_are_one_pass_and_what_comes_next_is_there() {
    let (gateway, _origin, bytes) = stage(&["a.bin"]);
    let part = |number: usize| number * PART..(number + 1) * PART;
    read(&gateway, "a.bin", &bytes, part(0));
    settled(&gateway, PART);
    read(&gateway, "a.bin", &bytes, part(1));
    // As much as was read.
    settled(&gateway, 4 * PART);
    for number in 2..6 {
        let status = read(&gateway, "a.bin", &bytes, part(number));
        assert!(status.contains("; hit"), "part {number}: {status}");
        settled(&gateway, SIZE.min((number + 3) * PART));
    }
    let used = gateway.metric("forebay_read_ahead_bytes_total", &[("outcome", "used")]);
    // What lies behind the first block of each range that was led counts too.
    assert!(used >= (4 * PART) as f64, "{used}");
    assert_eq!(
        gateway.metric("forebay_read_ahead_bytes_total", &[("outcome", "unused")]),
        0.0
    );
}

#[test]
fn a_cold_object_of_many_times_the_memory_is_read_whole() {
    const LONG: u64 = 1 << 30;
    let files = Scratch::new("files");
    let path = files.path().join("long.bin");
    let file = std::fs::File::create(path).expect("a file can be made");
    file.set_len(LONG).expect("a file may have holes");
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .cache("memory = \"64MiB\"")
        .start();
    for rate in ["400M", "0"] {
        let read = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "60",
                "--limit-rate",
                rate,
                "-o",
                "/dev/null",
            ])
            .args([
                "-w",
                "%{size_download}",
                &(gateway.url() + "/models/long.bin"),
            ])
            .output()
            .expect("curl runs");
        let read = String::from_utf8_lossy(&read.stdout).into_owned();
        assert_eq!(read, LONG.to_string(), "at {rate}");
    }
}

#[test]
fn ranges_at_random_are_not_read_ahead() {
    let (gateway, _origin, bytes) = stage(&["a.bin"]);
    let places = [31, 3, 17, 44, 9, 25, 38, 12];
    for (count, block) in places.into_iter().enumerate() {
        let start = block * BLOCK + 1000;
        read(&gateway, "a.bin", &bytes, start..start + 4096);
        settled(&gateway, (count + 1) * BLOCK);
    }
}

#[test]
fn the_next_object_of_a_series_is_begun_before_this_one_ends() {
    let names = ["m-00001-of-00002.bin", "m-00002-of-00002.bin"];
    let (gateway, _origin, bytes) = stage(&names);
    let whole = gateway.get("/models/m-00001-of-00002.bin").expect(200);
    assert_bytes("the first", &whole.body, &bytes);
    settled(&gateway, 2 * SIZE);
    let status = read(&gateway, names[1], &bytes, 0..SIZE);
    assert!(status.contains("; hit"), "{status}");
}
