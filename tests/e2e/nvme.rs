//! The NVMe tier: what it says it holds survives a kill, what was purged does not, damage is a miss.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, Setup, command};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::until;

/// Far beyond what the slowest of these steps takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of each object: whole blocks and a bit.
const SIZE: usize = 8 * BLOCK + 17;

/// Logged where the temporary directory's file system knows no direct I/O.
const BUFFERED: &str = "direct I/O does not work there";

struct Stage {
    _files: Scratch,
    origin: PathBuf,
    names: Vec<String>,
}

impl Stage {
    fn new(objects: usize) -> Self {
        let files = Scratch::new("files");
        let names: Vec<String> = (0..objects)
            .map(|n| format!("dir{}/{n}.bin", n % 2))
            .collect();
        for name in &names {
            files.write(name, oracle::bytes(name, 1, SIZE));
        }
        let origin = files.path().to_owned();
        Self {
            _files: files,
            origin,
            names,
        }
    }

    fn setup(&self, nvme: &[&str]) -> Setup {
        let origin = self.origin.to_str().expect("a temporary path is UTF-8");
        let mut setup = Setup::of([Dataset::new("models", origin)])
            .cache("memory = \"256MiB\"")
            .allow(BUFFERED);
        for line in nvme {
            setup = setup.cache(line);
        }
        setup
    }

    /// Reads everything twice over, and asserts every byte.
    fn read(&self, gateway: &Gateway) {
        for name in &self.names {
            let answer = gateway.get(&format!("/models/{name}")).expect(200);
            assert_bytes(name, &answer.body, &oracle::bytes(name, 1, SIZE));
        }
    }

    fn blocks(&self) -> f64 {
        (self.names.len() * SIZE.div_ceil(BLOCK)) as f64
    }
}

fn resident(gateway: &Gateway, blocks: f64) {
    until(LIMIT, "the blocks to be on NVMe", || {
        let answer = gateway.json("/-/datasets/models");
        let nvme = answer["datasets"][0]["cached"]["nvme"]["blocks"].as_f64();
        (nvme == Some(blocks)).then_some(())
    });
}

fn state(gateway: &Gateway, wanted: &str) {
    until(LIMIT, &format!("the tier to be {wanted}"), || {
        (gateway.json("/-/datasets")["nvme"]["state"] == wanted).then_some(())
    });
}

/// Starts the gateway whose files lie in `scratch` once more.
fn again(scratch: Scratch, allowed: &[&str]) -> Gateway {
    let config = scratch.path().join("forebay.toml");
    let allowed = allowed.iter().chain([&BUFFERED]);
    Gateway::start(
        command().arg("serve").arg("--config").arg(config),
        scratch,
        allowed.map(ToString::to_string).collect(),
    )
}

fn block_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).expect("the tier has a directory");
    let files = files.map(|file| file.expect("an entry").path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.metadata().is_ok_and(|file| file.len() > 1 << 20))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no block files in {}", dir.display());
    files
}

#[test]
fn what_is_called_resident_survives_a_kill() {
    let stage = Stage::new(4);
    let gateway = stage.setup(&["nvme = \"128MiB\""]).start();
    stage.read(&gateway);
    resident(&gateway, stage.blocks());
    // At once: neither known versions nor blocks may need another moment.
    let gateway = again(gateway.kill(), &[]);
    let first = gateway.range("/models/dir0/0.bin", "bytes=0-9").expect(206);
    assert_eq!(first.need("cache-status"), "forebay; hit; detail=\"nvme\"");
    stage.read(&gateway);
    assert_eq!(gateway.origin_gets("models"), 0.0);
    let served = gateway.metric("forebay_response_bytes_total", &[("source", "nvme")]);
    assert!(served >= (SIZE * 4 - BLOCK) as f64, "{served}");
    let second = gateway.range("/models/dir0/0.bin", "bytes=0-9").expect(206);
    assert_eq!(
        second.need("cache-status"),
        "forebay; hit; detail=\"memory\"",
        "what was read is in memory"
    );
    let blocks = gateway.json("/-/blocks/models/dir0/0.bin");
    let tiers = &blocks["blocks"][0]["holders"][0]["tiers"];
    assert_eq!(*tiers, serde_json::json!(["memory", "nvme"]));
    let dataset = &gateway.json("/-/datasets/models?list=true")["datasets"][0];
    assert_eq!(dataset["resident_bytes"], SIZE * 4, "counted once");
    assert_eq!(dataset["percent"], 100.0);
}

#[test]
fn what_was_purged_stays_purged() {
    let stage = Stage::new(4);
    let gateway = stage.setup(&["nvme = \"128MiB\""]).start();
    stage.read(&gateway);
    resident(&gateway, stage.blocks());
    let purged = gateway
        .request("POST", "/-/purge/models/dir1/", &[])
        .expect(200);
    let purged: serde_json::Value = serde_json::from_slice(&purged.body).expect("JSON");
    assert_eq!(purged["bytes"], SIZE * 2, "each block counts once");
    let gateway = again(gateway.kill(), &[]);
    resident(&gateway, stage.blocks() / 2.0);
    let gets = |name: &str| {
        let before = gateway.origin_gets("models");
        let answer = gateway.get(&format!("/models/{name}")).expect(200);
        assert_bytes(name, &answer.body, &oracle::bytes(name, 1, SIZE));
        gateway.origin_gets("models") - before
    };
    assert_eq!(gets("dir0/0.bin"), 0.0);
    assert!(gets("dir1/1.bin") > 0.0);
    assert!(gets("dir1/3.bin") > 0.0);
}

#[test]
fn a_tier_that_was_switched_off_meanwhile_brings_nothing_back() {
    let stage = Stage::new(1);
    let gateway = stage.setup(&["nvme = \"128MiB\""]).start();
    stage.read(&gateway);
    resident(&gateway, stage.blocks());
    let scratch = gateway.kill();
    let config = scratch.path().join("forebay.toml");
    let with = fs::read_to_string(&config).expect("the settings file");
    scratch.write("forebay.toml", with.replace("128MiB", "0"));
    let gateway = again(scratch, &[]);
    let _ = gateway.request("POST", "/-/purge/models/", &[]).expect(200);
    let scratch = gateway.kill();
    scratch.write("forebay.toml", with);
    let gateway = again(scratch, &["they were removed"]);
    stage.read(&gateway);
    assert!(gateway.origin_gets("models") > 0.0);
}

#[test]
fn flipped_bytes_cost_a_read_of_the_origin_and_nothing_else() {
    let stage = Stage::new(4);
    let gateway = stage.setup(&["nvme = \"128MiB\""]).start();
    stage.read(&gateway);
    resident(&gateway, stage.blocks());
    let scratch = gateway.kill();
    let files = block_files(&scratch.path().join("data/nvme"));
    let mut random = 0x5eed_u64;
    println!("seed {random:#x}");
    for _ in 0..1000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let path = &files[(random >> 33) as usize % files.len()];
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("a block file");
        let len = file.metadata().expect("its length").len();
        let at = (random >> 7) % len;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[byte[0] ^ (1 << (random >> 61))], at)
            .expect("a flip");
    }
    let gateway = again(scratch, &[]);
    stage.read(&gateway);
    let damaged = gateway.metric("forebay_nvme_checksum_failures_total", &[]);
    let lost = gateway.metric("forebay_cache_evictions_total", &[("tier", "nvme")]);
    assert!(
        damaged > 0.0 && damaged + lost > stage.blocks() / 2.0,
        "{damaged} {lost}"
    );
    assert_eq!(gateway.metric("forebay_nvme_read_errors_total", &[]), 0.0);
    // All of it is written again.
    resident(&gateway, stage.blocks());
}

#[test]
fn files_that_are_cut_off_cost_a_read_of_the_origin_and_nothing_else() {
    let stage = Stage::new(4);
    let gateway = stage.setup(&["nvme = \"128MiB\""]).start();
    stage.read(&gateway);
    resident(&gateway, stage.blocks());
    // Before it starts, and while it runs.
    let scratch = gateway.kill();
    let dir = scratch.path().join("data/nvme");
    let cut = |every: usize, to: u64| {
        for path in block_files(&dir).iter().step_by(every) {
            let file = OpenOptions::new()
                .write(true)
                .open(path)
                .expect("a block file");
            file.set_len(to).expect("a cut");
        }
    };
    cut(2, BLOCK as u64 * 2 + 1);
    let gateway = again(scratch, &[]);
    state(&gateway, "on");
    cut(1, 1);
    let first = gateway.range("/models/dir0/0.bin", "bytes=0-9").expect(206);
    assert_eq!(first.need("cache-status"), "forebay; fwd=miss");
    stage.read(&gateway);
    assert!(gateway.metric("forebay_nvme_checksum_failures_total", &[]) > 0.0);
    assert_eq!(gateway.json("/-/datasets")["nvme"]["state"], "on");
}

/// A file system of its own, of so many MiB; `None` where this process may not mount one.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(scratch: &Scratch, mib: usize) -> Option<Self> {
        let path = scratch.path().join("disk");
        fs::create_dir_all(&path).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(path))
    }

    fn remount(&self, option: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.0)
            .status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "remount {option}"
        );
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_and_a_read_only_disk_are_left_alone_and_tried_again() {
    let place = Scratch::new("disk");
    let Some(disk) = Tmpfs::mount(&place, 128) else {
        eprintln!("not done: only root can mount a disk that fills");
        return;
    };
    let stage = Stage::new(6);
    let dir = format!("nvme_dir = {:?}", disk.0.join("blocks"));
    let setup = stage
        .setup(&["nvme = \"100MiB\"", &dir])
        .allow("the NVMe tier is off");
    let gateway = setup.start();
    state(&gateway, "on");
    // Somebody else fills the disk: all but 4 MiB of it.
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 124 << 20]).expect("the disk has room");
    stage.read(&gateway);
    state(&gateway, "off");
    stage.read(&gateway);
    let _ = gateway.get("/-/readyz").expect(200);
    assert_eq!(
        gateway.metric("forebay_nvme_state", &[("state", "off")]),
        1.0
    );
    assert!(gateway.metric("forebay_nvme_write_errors_total", &[]) > 0.0);
    fs::remove_file(ballast).expect("the ballast");
    state(&gateway, "on");
    // What it missed meanwhile is written when it is filled again.
    let _ = gateway.request("POST", "/-/purge/models/", &[]).expect(200);
    stage.read(&gateway);
    resident(&gateway, stage.blocks());
    let scratch = gateway.kill();
    disk.remount("ro");
    let gateway = again(scratch, &["the NVMe tier is off"]);
    state(&gateway, "off");
    stage.read(&gateway);
    disk.remount("rw");
    state(&gateway, "on");
    let _ = gateway.get("/models/dir0/0.bin").expect(200);
    assert_eq!(
        gateway.metric("forebay_nvme_state", &[("state", "on")]),
        1.0
    );
}

#[test]
fn two_gateways_do_not_share_block_files() {
    let stage = Stage::new(1);
    let place = Scratch::new("shared");
    let dir = format!("nvme_dir = {:?}", place.path());
    let lines = ["nvme = \"128MiB\"", dir.as_str()];
    let first = stage.setup(&lines).start();
    let scratch = Scratch::new("second");
    let text = stage.setup(&lines).text(scratch.path());
    let config = scratch.write("forebay.toml", text);
    let second = command().arg("serve").arg("--config").arg(config).output();
    let second = second.expect("forebay runs");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process uses it"), "{said}");
    let _ = first.get("/-/readyz").expect(200);
}

#[test]
fn files_never_exceed_nvme() {
    let stage = Stage::new(10);
    let gateway = stage.setup(&["nvme = \"32MiB\""]).start();
    for _ in 0..2 {
        stage.read(&gateway);
        let _ = gateway
            .request("POST", "/-/purge/models/dir0/", &[])
            .expect(200);
    }
    state(&gateway, "on");
    let files = fs::read_dir(gateway.data_dir().join("nvme")).expect("the tier's directory");
    let bytes: u64 = files
        .map(|file| {
            file.expect("an entry")
                .metadata()
                .expect("its length")
                .len()
        })
        .sum();
    assert!(bytes <= 32 << 20, "{bytes}");
}
