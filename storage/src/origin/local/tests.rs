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

#[tokio::test]
async fn drafts_of_two_gateways_with_one_process_number_are_two_files() {
    let scratch = Scratch::new("drafts");
    // What another gateway writes whose process has our number, as all have in containers.
    let theirs: Vec<String> = (0..2_000)
        .map(|number| format!("{}/{}-{number}", super::write::DRAFTS, std::process::id()))
        .collect();
    theirs.iter().for_each(|draft| scratch.put(draft, "theirs"));
    let directory = scratch.open();
    let (one, other) = (directory.draft("a", None), directory.draft("a", None));
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    one.write(0, vec!["one".into()]).await.unwrap();
    other.write(0, vec!["other".into()]).await.unwrap();
    other.finish().await.unwrap();
    let root = scratch.0.join("root");
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "other");
    one.finish().await.unwrap();
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "one");
    for draft in theirs {
        assert_eq!(std::fs::read_to_string(root.join(draft)).unwrap(), "theirs");
    }
}

#[tokio::test]
async fn nothing_is_made_behind_a_link_that_leads_out() {
    let scratch = Scratch::new("out");
    let (root, outside) = (scratch.0.join("root"), scratch.0.join("outside"));
    std::fs::create_dir_all(&outside).unwrap();
    scratch.put("in/b", "inside");
    symlink("../outside", root.join("out")).unwrap();
    symlink("in", root.join("link")).unwrap();
    let directory = scratch.open();
    let draft = directory.draft("out/new/a", None).await.unwrap();
    let refused = draft.finish().await;
    assert!(
        matches!(refused, Err(OriginError::BadAnswer(_))),
        "{refused:?}"
    );
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
    let draft = directory.draft("link/new/a", None).await.unwrap();
    draft.write(0, vec!["through".into()]).await.unwrap();
    draft.finish().await.unwrap();
    let text = std::fs::read_to_string(root.join("in/new/a")).unwrap();
    assert_eq!(text, "through");
}
