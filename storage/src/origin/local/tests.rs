//! What a directory promises as an origin.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;

use futures::TryStreamExt;

use super::*;
use crate::listing::Start;

/// A directory of its own for each test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("forebay-local-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("root")).unwrap();
        Self(path)
    }

    fn put(&self, key: &str, text: &str) {
        let path = self.0.join("root").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn open(&self) -> Directory {
        Directory::new(&self.0.join("root"), Arc::default()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn keys(directory: &Directory, prefix: &str, delimiter: Option<&str>) -> Vec<String> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        delimiter: delimiter.map(str::to_owned),
        start: Start::Beginning,
        max_keys: 1000,
    };
    let page = directory.list(&request).await.unwrap();
    let objects = page.objects.into_iter().map(|object| object.key);
    objects.chain(page.prefixes).collect()
}

#[tokio::test]
async fn a_link_is_followed_inside_the_root_and_not_out_of_it() {
    let scratch = Scratch::new("links");
    scratch.put("a", "inside");
    std::fs::write(scratch.0.join("secret"), "outside").unwrap();
    let root = scratch.0.join("root");
    symlink("a", root.join("in")).unwrap();
    symlink("../secret", root.join("out")).unwrap();
    symlink("..", root.join("up")).unwrap();
    let directory = scratch.open();
    assert_eq!(directory.open("in", true).await.unwrap().size, 6);
    for key in ["out", "up/secret", "../secret", "a/", "/a", "a//b", ""] {
        let opened = directory.open(key, true).await;
        assert!(matches!(opened, Err(OriginError::NotFound)), "{key}");
    }
    assert_eq!(keys(&directory, "", None).await, ["a", "in"]);
}

#[tokio::test]
async fn keys_come_in_the_order_of_their_bytes_and_loops_end() {
    let scratch = Scratch::new("order");
    for key in ["a/b/c", "a-b", "a/b.c", "b"] {
        scratch.put(key, "x");
    }
    let root = scratch.0.join("root");
    symlink("..", root.join("a/loop")).unwrap();
    symlink("../..", root.join("a/b/loop")).unwrap();
    let directory = scratch.open();
    assert_eq!(
        keys(&directory, "", None).await,
        ["a-b", "a/b.c", "a/b/c", "b"]
    );
    assert_eq!(keys(&directory, "", Some("/")).await, ["a-b", "b", "a/"]);
    assert_eq!(keys(&directory, "a/b", Some("/")).await, ["a/b.c", "a/b/"]);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_not_read_on() {
    let scratch = Scratch::new("changes");
    let size = 3 * PIECE;
    scratch.put("a", &"x".repeat(usize::try_from(size).unwrap()));
    let directory = scratch.open();
    let opened = directory.open("a", false).await.unwrap();
    let mut body = directory.read(opened, 0..size);
    assert!(body.try_next().await.unwrap().is_some());
    let file = File::options()
        .write(true)
        .open(scratch.0.join("root/a"))
        .unwrap();
    file.set_len(10).unwrap();
    assert_eq!(body.try_next().await, Err(OriginError::Changed));
}

#[tokio::test]
async fn a_root_that_is_a_link_may_be_turned() {
    let scratch = Scratch::new("root");
    std::fs::create_dir_all(scratch.0.join("other")).unwrap();
    std::fs::write(scratch.0.join("other/a"), "longer").unwrap();
    scratch.put("a", "short");
    let link = scratch.0.join("current");
    symlink("root", &link).unwrap();
    let directory = Directory::new(&link, Arc::default()).unwrap();
    assert_eq!(directory.open("a", true).await.unwrap().size, 5);
    std::fs::remove_file(&link).unwrap();
    let gone = directory.open("a", true).await;
    assert!(matches!(gone, Err(OriginError::Unreachable(_))));
    symlink("other", &link).unwrap();
    assert_eq!(directory.open("a", true).await.unwrap().size, 6);
}

#[tokio::test]
async fn a_pipe_is_no_object() {
    let scratch = Scratch::new("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let path = scratch.0.join("root/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let opened = scratch.open().open("pipe", false).await;
    assert!(matches!(opened, Err(OriginError::NotFound)));
}

#[tokio::test]
async fn a_file_over_another_with_its_time_and_size_is_another_version() {
    let scratch = Scratch::new("etag");
    scratch.put("a", "one");
    let path = scratch.0.join("root/a");
    let directory = scratch.open();
    let before = directory.open("a", true).await.unwrap().headers;
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, "two").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    let after = directory.open("a", true).await.unwrap().headers;
    assert_eq!(
        before.get(header::LAST_MODIFIED),
        after.get(header::LAST_MODIFIED)
    );
    assert_ne!(before.get(header::ETAG), after.get(header::ETAG));
}
