//! Directories as origins: files that change in place, pipes, links that turn and that go round.

use std::fs::{File, FileTimes};
use std::os::unix::fs::{FileExt, symlink};
use std::process::Command;
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::until;

use crate::stage::cached;

/// What a bound of 300 ms may be passed by on a busy machine of two cores.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);

fn gateway(files: &Scratch, name: &str) -> Gateway {
    let path = files.path().join(name);
    let path = path.to_str().expect("a temporary path is UTF-8");
    let dataset = Dataset::new("models", path).line("fresh_for = \"300ms\"");
    Setup::of([dataset]).allow("origin").start()
}

fn listed(gateway: &Gateway) -> Vec<String> {
    let text = gateway.get("/models?list-type=2").expect(200).text();
    let keys = text.split("<Key>").skip(1);
    keys.map(|rest| rest.split("</Key>").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_file_rewritten_with_its_old_time_and_size_shows_and_never_mixes() {
    const SIZE: usize = 4 * BLOCK + 17;
    let version = |version| oracle::bytes("a.bin", version, SIZE);
    let files = Scratch::new("files");
    let path = files.write("a.bin", version(1));
    let gateway = gateway(&files, "");
    for next in 2..5 {
        let (old, new) = (version(next - 1), version(next));
        // Two of the old version's blocks are cached when the file changes, the others would be read after it.
        let gone = gateway.metric("forebay_cache_bytes", &[]) as usize;
        let first = gateway
            .range("/models/a.bin", "bytes=0-1048576")
            .expect(206);
        assert_bytes("before", &first.body, &old[..=BLOCK]);
        cached(&gateway, gone.min(1) + 2 * BLOCK);
        let file = File::options().write(true).open(&path).expect("the file");
        let modified = file.metadata().and_then(|seen| seen.modified());
        file.write_all_at(&new, 0).expect("the file can be written");
        let times = FileTimes::new().set_modified(modified.expect("a time of modification"));
        file.set_times(times).expect("its time can be set");
        until(SHOWN_WITHIN, "the new bytes", || {
            let answer = gateway.get("/models/a.bin");
            if answer.status == 503 {
                // The object is being replaced.
                return None;
            }
            assert_eq!(answer.status, 200, "{:?}", answer.headers);
            let expected = if answer.body.starts_with(&new[..8]) {
                &new
            } else {
                &old
            };
            assert_bytes("what came", &answer.body, &expected[..answer.body.len()]);
            (answer.whole && answer.body == new).then_some(())
        });
    }
}

#[test]
fn a_pipe_in_a_directory_is_no_object_and_holds_nothing_up() {
    let files = Scratch::new("files");
    files.write("a.bin", "a");
    files.write("z.bin", "z");
    let made = Command::new("mkfifo")
        .arg(files.path().join("pipe"))
        .status()
        .expect("mkfifo runs");
    assert!(made.success());
    let gateway = gateway(&files, "");
    for method in ["GET", "HEAD"] {
        let _ = gateway.request(method, "/models/pipe", &[]).expect(404);
    }
    let _ = gateway.range("/models/pipe", "bytes=0-0").expect(404);
    assert_eq!(listed(&gateway), ["a.bin", "z.bin"]);
    assert_eq!(gateway.get("/models/z.bin").expect(200).body, b"z");
    let _ = gateway.stop();
}

#[test]
fn a_link_that_is_turned_over_shows_what_it_points_to_now() {
    let files = Scratch::new("files");
    for release in 1..4 {
        let bytes = oracle::bytes("a.bin", release, 5000);
        files.write(&format!("release-{release}/a.bin"), bytes);
        files.write(&format!("release-{release}/of-{release}.bin"), "");
    }
    let turn = |release: u64| {
        let beside = files.path().join("next");
        symlink(format!("release-{release}"), &beside).expect("a link");
        std::fs::rename(beside, files.path().join("current")).expect("a link can be replaced");
    };
    turn(1);
    let gateway = gateway(&files, "current");
    let first = gateway.get("/models/a.bin").expect(200);
    assert_bytes("first", &first.body, &oracle::bytes("a.bin", 1, 5000));
    for release in 2..4 {
        turn(release);
        let bytes = oracle::bytes("a.bin", release, 5000);
        until(SHOWN_WITHIN, "the other release", || {
            (gateway.get("/models/a.bin").expect(200).body == bytes).then_some(())
        });
        let names = ["a.bin".to_owned(), format!("of-{release}.bin")];
        until(SHOWN_WITHIN, "the other release's listing", || {
            (listed(&gateway) == names).then_some(())
        });
    }
}

#[test]
fn a_listing_ends_where_links_go_round() {
    let files = Scratch::new("files");
    for key in ["a/x.bin", "b/y.bin", "z.bin"] {
        files.write(key, key);
    }
    // Two that lead to where they are, and two directories that lead to each other.
    for (target, link) in [
        (".", "round-1"),
        (".", "round-2"),
        ("..", "a/up"),
        ("../b", "a/to-b"),
        ("../a", "b/to-a"),
    ] {
        symlink(target, files.path().join(link)).expect("a link");
    }
    let gateway = gateway(&files, "");
    // A directory is walked by each way to it that does not come through it twice.
    let expected = [
        "a/to-b/y.bin",
        "a/x.bin",
        "b/to-a/x.bin",
        "b/y.bin",
        "z.bin",
    ];
    assert_eq!(listed(&gateway), expected);
    for key in expected {
        let answer = gateway.get(&format!("/models/{key}")).expect(200);
        assert_eq!(answer.body.len(), 7.min(key.len()), "{key}");
    }
}
