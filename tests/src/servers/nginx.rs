//! nginx over a directory, in moods: each is a path prefix over the same files.

use std::net::SocketAddr;
use std::path::Path;

use super::free_address;
use crate::process::{Process, command};
use crate::scratch::Scratch;

/// A way in which nginx serves the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Strong tags, ranges, dates.
    Plain,
    /// No ETag, but Last-Modified.
    NoTag,
    /// Neither ETag nor Last-Modified.
    NoValidator,
    /// The same weak tag for ever, and Last-Modified.
    WeakTag,
    /// Ignores Range: always 200.
    NoRanges,
    /// Compresses when it is asked to.
    Compresses,
    /// Compresses whether it is asked to or not: no length, no ranges, weak tags.
    AlwaysCompresses,
}

impl Mood {
    /// Every mood but [`Mood::Plain`].
    pub const ODD: [Mood; 6] = [
        Mood::NoTag,
        Mood::NoValidator,
        Mood::WeakTag,
        Mood::NoRanges,
        Mood::Compresses,
        Mood::AlwaysCompresses,
    ];

    /// The path that serves so, which is a good dataset name too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mood::Plain => "plain",
            Mood::NoTag => "no-tag",
            Mood::NoValidator => "no-validator",
            Mood::WeakTag => "weak-tag",
            Mood::NoRanges => "no-ranges",
            Mood::Compresses => "compresses",
            Mood::AlwaysCompresses => "always-compresses",
        }
    }

    fn directives(self) -> &'static str {
        match self {
            Mood::Plain => "autoindex on;",
            Mood::NoTag => "etag off;",
            Mood::NoValidator => "etag off; add_header Last-Modified \"\";",
            Mood::WeakTag => "etag off; add_header ETag 'W/\"for-ever\"';",
            Mood::NoRanges => "max_ranges 0;",
            Mood::Compresses => "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;",
            Mood::AlwaysCompresses => "",
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    place: Scratch,
}

impl Nginx {
    /// Starts it, without files.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Nginx {
        let address = free_address();
        let place = Scratch::new("nginx");
        std::fs::create_dir(place.path().join("files")).expect("a fresh directory takes another");
        let config = place.write("nginx.conf", configuration(place.path(), address));
        let mut command = command(Path::new("/usr/sbin/nginx"));
        command
            .arg("-c")
            .arg(config)
            .arg("-p")
            .arg(place.path())
            .args(["-e", "stderr"]);
        let mut process = Process::start("nginx", &mut command);
        process.listens(address);
        Nginx {
            process,
            address,
            place,
        }
    }

    /// `http://HOST:PORT/mood/`.
    #[must_use]
    pub fn url(&self, mood: Mood) -> String {
        format!("http://{}/{}/", self.address, mood.name())
    }

    /// Writes a file that every mood serves.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.place.write(&format!("files/{name}"), bytes);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn configuration(place: &Path, address: SocketAddr) -> String {
    let place = place.display();
    let mut locations = String::new();
    for mood in Mood::ODD
        .into_iter()
        .chain([Mood::Plain])
        .filter(|mood| *mood != Mood::AlwaysCompresses)
    {
        locations.push_str(&format!(
            "location /{}/ {{ alias {place}/files/; {} }}\n",
            mood.name(),
            mood.directives()
        ));
    }
    // Only a request that asks for it is compressed, so this mood asks itself, whatever its client wants.
    locations.push_str(&format!(
        "location /always-compresses/ {{ proxy_pass http://{address}/compresses/; proxy_http_version 1.1; \
         proxy_set_header Accept-Encoding gzip; }}\n"
    ));
    // One process in the foreground: no worker outlives its test.
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {place}/pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {place}/body;\nproxy_temp_path {place}/proxy;\n\
         fastcgi_temp_path {place}/fastcgi;\nuwsgi_temp_path {place}/uwsgi;\nscgi_temp_path {place}/scgi;\n\
         default_type application/octet-stream;\nserver {{ listen {address};\n{locations}}}\n}}\n"
    )
}
