//! The files below a directory, as keys in the order of their bytes.
//!
//! A walk costs what it comes by: of each directory it is asked once where it is, and what lies before the page is not
//! entered.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header;

use super::open_file;
use crate::listing::{ListRequest, ListedObject, Start};

/// Says, once it is dropped, that nobody waits for a walk any more.
pub(super) struct Leave(Arc<AtomicBool>);

/// Whether nobody does.
pub(super) struct Left(Arc<AtomicBool>);

impl Leave {
    /// Somebody who waits, and what the walk asks.
    pub(super) fn new() -> (Self, Left) {
        let left = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&left)), Left(left))
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Left {
    fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is still to be visited.
struct Todo {
    /// A key; that of a directory ends in a slash.
    key: String,
    /// It may be anywhere.
    is_link: bool,
}

/// Where a directory is, whatever ways lead there: its device and inode.
type Spot = (u64, u64);

/// The files below a directory, as keys in the order of their bytes.
pub(super) struct Walk {
    root: PathBuf,
    prefix: String,
    start: Start,
    /// Of all keys below one directory of the prefix the first is enough: they are rolled up.
    rolled_up: bool,
    /// The next one last.
    todo: Vec<Todo>,
    /// The directories that the walk is in, from the root down.
    above: Vec<(String, Spot)>,
    spots: HashSet<Spot>,
    left: Left,
}

impl Walk {
    /// What the request's page is made of.
    pub(super) fn below(root: &Path, request: &ListRequest, left: Left) -> Self {
        let prefix = request.prefix.as_str();
        let mut walk = Self {
            root: root.to_owned(),
            prefix: prefix.to_owned(),
            start: request.start.clone(),
            rolled_up: request.delimiter.as_deref() == Some("/"),
            todo: Vec::new(),
            above: Vec::new(),
            spots: HashSet::new(),
            left,
        };
        // Nothing outside the prefix's own directory can begin with the prefix.
        let directory = prefix
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        let plain = Path::new(directory)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if plain && !directory.contains("//") {
            if !directory.is_empty() {
                walk.is_new("", true);
            }
            for (end, _) in directory.match_indices('/') {
                walk.is_new(&directory[..=end], true);
            }
            let start = if directory.is_empty() {
                String::new()
            } else {
                format!("{directory}/")
            };
            walk.enter(&start, true);
        }
        walk
    }

    fn enter(&mut self, key: &str, is_link: bool) {
        if !self.is_new(key, is_link) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(self.root.join(key)) else {
            return;
        };
        let mut found: Vec<Todo> = entries
            .take_while(|_| !self.left.is_so())
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let kind = entry.file_type().ok()?;
                let is_link = kind.is_symlink();
                let directory = kind.is_dir() || (is_link && entry.path().is_dir());
                Some(Todo {
                    key: format!("{key}{name}{}", if directory { "/" } else { "" }),
                    is_link,
                })
            })
            .filter(|found| self.wants(&found.key))
            .collect();
        found.sort_unstable_by(|a, b| b.key.cmp(&a.key));
        self.todo.append(&mut found);
    }

    /// Whether the page may have it, or something below it.
    fn wants(&self, key: &str) -> bool {
        let begins = key.starts_with(&self.prefix) || self.prefix.starts_with(key);
        let follows = match &self.start {
            Start::Beginning => true,
            Start::After(last) | Start::Marker(last) | Start::Token(last) => {
                key > last.as_str() || (key.ends_with('/') && last.starts_with(key))
            }
        };
        begins && follows
    }

    /// Notes that the walk is in this directory. Not outside the root, and not where it has come through already: a link
    /// may lead anywhere.
    fn is_new(&mut self, key: &str, is_link: bool) -> bool {
        while let Some((_, spot)) = self
            .above
            .pop_if(|(above, _)| !key.starts_with(above.as_str()))
        {
            self.spots.remove(&spot);
        }
        let path = self.root.join(key);
        // What is no link is where the directory is that it was found in.
        if is_link
            && !path
                .canonicalize()
                .is_ok_and(|place| place.starts_with(&self.root))
        {
            return false;
        }
        let Ok(metadata) = std::fs::metadata(&path) else {
            return false;
        };
        let spot = (metadata.dev(), metadata.ino());
        if !self.spots.insert(spot) {
            return false;
        }
        self.above.push((key.to_owned(), spot));
        true
    }

    /// Forgets the rest of the directory that `key` is rolled up into.
    fn roll_up(&mut self, key: &str) {
        let rest = key.get(self.prefix.len()..).unwrap_or_default();
        if let Some(slash) = rest.find('/') {
            let directory = &key[..=self.prefix.len() + slash];
            self.todo.retain(|todo| !todo.key.starts_with(directory));
        }
    }
}

impl Iterator for Walk {
    type Item = ListedObject;

    fn next(&mut self) -> Option<ListedObject> {
        loop {
            let Todo { key, is_link } = self.todo.pop()?;
            if self.left.is_so() {
                return None;
            }
            if key.ends_with('/') {
                self.enter(&key, is_link);
                continue;
            }
            let Ok(opened) = open_file(&self.root, &key) else {
                continue;
            };
            if self.rolled_up {
                self.roll_up(&key);
            }
            let text = |name| Some(opened.headers.get(name)?.to_str().ok()?.to_owned());
            let date = text(header::LAST_MODIFIED);
            return Some(ListedObject {
                key,
                size: opened.size,
                etag: text(header::ETAG),
                last_modified: date.and_then(|date| httpdate::parse_http_date(&date).ok()),
                storage_class: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::listing::page;

    fn request(prefix: &str, delimiter: Option<&str>, max_keys: usize) -> ListRequest {
        ListRequest {
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            start: Start::Beginning,
            max_keys,
        }
    }

    fn tree(name: &str, keys: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("forebay-walk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        for key in keys {
            let path = root.join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        root.canonicalize().unwrap()
    }

    #[test]
    fn pages_together_are_the_whole_list_however_small_they_are() {
        let keys = ["a-b", "a/b.c", "a/b/c", "a/b/d", "a/c", "b", "c/d/e", "c/f"];
        let root = tree("pages", &keys);
        for (prefix, delimiter, all) in [
            ("", None, 8),
            ("", Some("/"), 4),
            ("a/", Some("/"), 3),
            ("a/b", None, 3),
            ("c/d/", None, 1),
        ] {
            for max_keys in [1, 2, 3] {
                let mut request = request(prefix, delimiter, max_keys);
                let mut seen = Vec::new();
                loop {
                    let (_leave, left) = Leave::new();
                    let page = page(Walk::below(&root, &request, left), &request);
                    seen.extend(page.objects.into_iter().map(|object| object.key));
                    seen.extend(page.prefixes);
                    match page.next {
                        Some(next) => request.start = Start::Token(next),
                        None => break,
                    }
                }
                let count = seen.len();
                seen.sort();
                seen.dedup();
                assert_eq!(
                    (seen.len(), count),
                    (all, all),
                    "{prefix:?} {delimiter:?} {seen:?}"
                );
            }
        }
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_lies_before_a_page_is_not_entered() {
        let root = tree("before", &["a/1", "b/1", "b/2", "c/1"]);
        let mut request = request("", None, 1000);
        request.start = Start::Token("b/1".to_owned());
        let (_leave, left) = Leave::new();
        let walk = Walk::below(&root, &request, left);
        let todo: Vec<&str> = walk.todo.iter().map(|todo| &*todo.key).collect();
        assert_eq!(todo, ["c/", "b/"]);
        let keys: Vec<String> = walk.map(|object| object.key).collect();
        assert_eq!(keys, ["b/2", "c/1"]);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_walk_that_nobody_waits_for_ends() {
        let root = tree("left", &["a", "b", "c"]);
        let (leave, left) = Leave::new();
        let mut walk = Walk::below(&root, &request("", None, 1000), left);
        assert!(walk.next().is_some());
        drop(leave);
        assert!(walk.next().is_none());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_deep_directory_keeps_of_each_one_above_where_it_is_and_no_more() {
        let deep = "d/".repeat(300);
        let key = format!("{deep}x");
        let root = tree("deep", &[&key, "e"]);
        let (_leave, left) = Leave::new();
        let mut walk = Walk::below(&root, &request("", None, 1000), left);
        assert_eq!(walk.next().unwrap().key, key);
        assert_eq!((walk.above.len(), walk.spots.len()), (301, 301));
        assert_eq!(walk.next().unwrap().key, "e");
        assert!(walk.next().is_none());
        std::fs::remove_dir_all(root).unwrap();
    }
}
