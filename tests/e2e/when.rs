//! What happens when memory is small and the clock is wrong: the rows of README's table that no other module shows.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, Setup, command};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::process::Signal;
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::until;

/// Seconds.
const YEAR: i64 = 365 * 24 * 3600;

/// A C library's clock, put before the real one: the wall clock is off by the seconds that a file holds.
const CLOCK: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    long failed = syscall(SYS_clock_gettime, id, time);
    const char *path = getenv("CLOCK_OFF_BY");
    if (failed || id != CLOCK_REALTIME || !path)
        return failed;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    char text[32] = {0};
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0)
            time->tv_sec += atol(text);
        close(file);
    }
    return 0;
}
"#;

/// A clock to start gateways with.
struct Clock {
    scratch: Scratch,
}

impl Clock {
    fn new() -> Self {
        let scratch = Scratch::new("clock");
        let source = scratch.write("clock.c", CLOCK);
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(scratch.path().join("clock.so"))
            .arg(source)
            .output()
            .expect("a C compiler, which the build needs too");
        assert!(built.status.success(), "{built:?}");
        let clock = Self { scratch };
        clock.set(0);
        clock
    }

    /// Sets it off by so many seconds.
    fn set(&self, seconds: i64) {
        let path = self.scratch.path();
        fs::write(path.join("new"), seconds.to_string()).expect("the folder can be written");
        fs::rename(path.join("new"), path.join("off")).expect("the file can be replaced");
    }

    fn start(&self, scratch: Scratch) -> Gateway {
        let config = scratch.path().join("forebay.toml");
        let mut command = command();
        command
            .env("LD_PRELOAD", self.scratch.path().join("clock.so"))
            .env("CLOCK_OFF_BY", self.scratch.path().join("off"));
        command.arg("serve").arg("--config").arg(config);
        Gateway::start(&mut command, scratch, vec!["origin".into()])
    }
}

/// nginx with the first version of `a.bin`, and a gateway's folder with settings for it.
fn stage(fresh_for: &str) -> (Nginx, Scratch) {
    let origin = Nginx::start();
    origin.put("a.bin", &version(1));
    let models =
        Dataset::new("models", origin.url(Mood::Plain)).line(&format!("fresh_for = {fresh_for:?}"));
    let scratch = Scratch::new("gateway");
    scratch.write("forebay.toml", Setup::of([models]).text(scratch.path()));
    (origin, scratch)
}

fn version(version: u64) -> Vec<u8> {
    // nginx makes a tag of the size and the second.
    oracle::bytes("a.bin", version, BLOCK + version as usize)
}

fn asked(gateway: &Gateway) -> f64 {
    gateway.metric("forebay_origin_requests_total", &[("dataset", "models")])
}

fn read(gateway: &Gateway, wanted: u64) {
    let answer = gateway.get("/models/a.bin").expect(200);
    assert_bytes("a.bin", &answer.body, &version(wanted));
}

/// The year that the gateway believes it is.
fn year(gateway: &Gateway) -> i64 {
    let answer = gateway.get("/-/healthz").expect(200);
    let id = answer.need("x-amz-request-id");
    // The Date of answers is no witness: it is not taken back.
    let year = gateway
        .process()
        .stderr_line("line of the request", |line| {
            let year = line.contains(id).then(|| line.split('-').next())?;
            year.map(str::to_owned)
        });
    year.parse()
        .unwrap_or_else(|_| panic!("a line begins with the date, not {year}"))
}

#[test]
fn memory_smaller_than_readers_times_block_makes_them_wait_and_fails_nobody() {
    const READERS: usize = 128;
    let files = Scratch::new("files");
    let bytes = oracle::bytes("big.bin", 1, 2 * READERS * BLOCK);
    files.write("big.bin", &bytes);
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .cache("memory = \"64MiB\"")
        .start();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|place| {
                let (gateway, bytes) = (&gateway, &bytes);
                scope.spawn(move || {
                    // Cold, and of this reader alone.
                    let first = 2 * place * BLOCK;
                    let end = first + 2 * BLOCK;
                    let range = format!("bytes={first}-{}", end - 1);
                    let answer = gateway.range("/models/big.bin", &range).expect(206);
                    assert_bytes(&range, &answer.body, &bytes[first..end]);
                })
            })
            .collect();
        let limit = gateway.metric("forebay_memory_limit_bytes", &[]);
        assert!(limit <= (64 << 20) as f64, "{limit}");
        while readers.iter().any(|reader| !reader.is_finished()) {
            let leased = gateway.metric("forebay_leased_bytes", &[]);
            assert!(leased <= limit, "{leased} of {limit}");
        }
    });
    let cached = gateway.metric("forebay_cache_bytes", &[("tier", "memory")]);
    assert!(cached > 0.0 && cached <= (64 << 20) as f64, "{cached}");
}

#[test]
fn a_wall_clock_that_jumps_ages_nothing_that_is_known() {
    let clock = Clock::new();
    let (_origin, scratch) = stage("10m");
    let gateway = clock.start(scratch);
    read(&gateway, 1);
    let (before, now) = (asked(&gateway), year(&gateway));
    for years in [3, -6] {
        clock.set(years * YEAR);
        until(
            Duration::from_secs(5),
            "the gateway's clock to jump",
            || ((year(&gateway) - now - years).abs() <= 1).then_some(()),
        );
        read(&gateway, 1);
        assert_eq!(asked(&gateway), before, "{years} years off");
    }
}

#[test]
fn a_wall_clock_that_jumps_hides_no_overwrite() {
    let clock = Clock::new();
    let (origin, scratch) = stage("300ms");
    let gateway = clock.start(scratch);
    read(&gateway, 1);
    for (years, next) in [(-6, 2), (3, 3)] {
        clock.set(years * YEAR);
        origin.put("a.bin", &version(next));
        until(Duration::from_secs(3), "the overwrite", || {
            let answer = gateway.get("/models/a.bin").expect(200);
            (answer.body == version(next)).then_some(())
        });
    }
}

#[test]
fn a_clock_that_was_set_between_two_runs_makes_the_origin_be_asked() {
    let clock = Clock::new();
    let (origin, scratch) = stage("10m");
    let mut gateway = clock.start(scratch);
    read(&gateway, 1);
    // The same clock: what was known is known.
    gateway = restarted(&clock, gateway);
    let _ = gateway.request("HEAD", "/models/a.bin", &[]).expect(200);
    assert_eq!(asked(&gateway), 0.0);
    // It is set back, then forth: each time, what is known says nothing about now.
    for (years, next) in [(-3, 2), (3, 3)] {
        origin.put("a.bin", &version(next));
        clock.set(years * YEAR);
        gateway = restarted(&clock, gateway);
        read(&gateway, next);
        assert!(asked(&gateway) > 0.0, "{years} years off");
    }
}

/// The gateway's next run, in the same folder.
fn restarted(clock: &Clock, gateway: Gateway) -> Gateway {
    let known = gateway.data_dir().join("versions.jsonl");
    // It is written anew as the gateway ends.
    let _ = fs::remove_file(&known);
    gateway.process().signal(Signal::TERM);
    until(Duration::from_secs(10), "the known versions", || {
        known.exists().then_some(())
    });
    clock.start(gateway.kill())
}
