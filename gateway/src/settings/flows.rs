//! `[flows]`: what flows may run and reach. Nothing else can be.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use toml::de::DeValue;

use super::report::Report;
use super::section::{FLOWS, Section};
use super::{FlowSettings, KubernetesSettings, value};

/// What the URL of a request has to begin with: scheme, host, port, and a path that ends with one of its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPrefix {
    text: String,
    scheme: String,
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
}

impl UrlPrefix {
    /// That of a text such as `http://10.0.0.7:8080/hooks`.
    ///
    /// # Errors
    /// What is wrong with it, as a clause that follows its name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "is no such URL: {why}; write http://HOST:PORT/PATH, without a user's name, a fragment or `..` in it"
            )
        };
        let uri: Uri = text.parse().map_err(|_| wrong("it can't be read"))?;
        let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
        let port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it names a user"));
        }
        if text.contains('#') {
            return Err(wrong("it has a fragment, which no server ever sees"));
        }
        let path = uri.path();
        // What a server may take for a way up is nobody's prefix: some read `..;x` as `..`, with a parameter.
        let odd = |segment: &str| {
            segment == "." || segment.starts_with("..") || segment.starts_with(".;")
        };
        let lower = path.to_ascii_lowercase();
        let hidden = ["%2e", "%2f", "%5c", "\\"];
        if path.split('/').any(odd) || hidden.iter().any(|hidden| lower.contains(hidden)) {
            return Err(wrong("its path goes up or hides where it goes"));
        }
        Ok(Self {
            text: text.to_owned(),
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(port),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Whether a request for `url` begins with it.
    pub fn allows(&self, url: &Self) -> bool {
        let same = (&self.scheme, &self.host, self.port) == (&url.scheme, &url.host, url.port);
        let rest = url.path.strip_prefix(&self.path);
        same && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether it is of this machine alone.
    fn is_on_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// What `[flows]` says. Without it flows run no command and reach no URL.
pub(super) fn read(top: &Section<'_>, report: &mut Report) -> FlowSettings {
    let Some(section) = top.section("flows", &FLOWS, report) else {
        return FlowSettings::default();
    };
    let commands = section.read("commands", report, commands);
    let urls = section.read("urls", report, urls);
    let api = section.read("kubernetes", report, |value| {
        let url = UrlPrefix::parse(&value::string(value)?)?;
        match url.path.is_empty() && !url.text.contains('?') {
            true => Ok(url),
            false => Err("must be the API server's URL, without a path".into()),
        }
    });
    let token = section.read("kubernetes_token", report, token);
    let authorities = section.read("kubernetes_ca", report, value::file);
    if let (Some(api), Some(token)) = (&api, &token)
        && api.value.scheme == "http"
        && !api.value.is_on_loopback()
    {
        let sentence = "the token would be sent in clear to `kubernetes`: write its URL with https://, or leave the token \
                        out where a proxy on this machine adds it";
        report.add(&token.place, sentence);
    }
    let kubernetes = api.map(|api| KubernetesSettings {
        api: api.value.text.trim_end_matches('/').to_owned(),
        token: token.as_ref().map(|token| token.value.clone()),
        ca: authorities.as_ref().map(|file| file.value.clone()),
    });
    if let (None, Some(place)) = (
        &kubernetes,
        token
            .map(|token| token.place)
            .or(authorities.map(|ca| ca.place)),
    ) {
        let sentence = "it says nothing without `kubernetes`, the API server's URL: add \
                        kubernetes = \"https://kubernetes.default.svc\"";
        report.add(&place, sentence);
    }
    FlowSettings {
        commands: commands.map(|commands| commands.value).unwrap_or_default(),
        urls: urls.map(|urls| urls.value).unwrap_or_default(),
        kubernetes,
    }
}

fn commands(value: &DeValue<'_>) -> Result<Vec<PathBuf>, String> {
    let how = "must be a list of programs by their whole paths, such as [\"/usr/bin/systemctl\"]";
    let plain = |path: &PathBuf| {
        let text = path.to_string_lossy();
        path.is_absolute() && text.split('/').all(|part| !matches!(part, "." | ".."))
    };
    let commands = strings(value).ok_or(how)?;
    let commands: Vec<PathBuf> = commands.into_iter().map(PathBuf::from).collect();
    match commands.iter().all(plain) {
        true => Ok(commands),
        false => Err(how.into()),
    }
}

fn urls(value: &DeValue<'_>) -> Result<Vec<UrlPrefix>, String> {
    let how = "must be a list of URLs, such as [\"http://10.0.0.7:8080/hooks\"]";
    let urls = strings(value).ok_or(how)?;
    let parsed = urls.iter().map(|url| {
        let parsed =
            UrlPrefix::parse(url).map_err(|clause| format!("holds {url:?}, which {clause}"))?;
        match url.contains('?') {
            false => Ok(parsed),
            true => Err(format!("holds {url:?}, which has a query: remove it")),
        }
    });
    parsed.collect()
}

/// The file that the token is in: it is replaced every hour, so it is read each time.
fn token(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let how =
        "must be a file, as { file = \"/var/run/secrets/kubernetes.io/serviceaccount/token\" }";
    let table = value.as_table().filter(|table| table.len() == 1);
    let file = table.and_then(|table| table.get("file"));
    let file = file.and_then(|file| file.get_ref().as_str());
    match file.filter(|file| !file.is_empty()) {
        Some(file) => Ok(file.into()),
        None => Err(how.into()),
    }
}

fn strings(value: &DeValue<'_>) -> Option<Vec<String>> {
    let items = value.as_array()?.iter();
    items
        .map(|item| item.get_ref().as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_prefix_ends_with_a_segment_and_names_scheme_host_and_port() {
        let allows = |prefix: &str, url: &str| {
            let url = UrlPrefix::parse(url).unwrap();
            UrlPrefix::parse(prefix).unwrap().allows(&url)
        };
        for (prefix, url) in [
            ("http://h:80/a", "http://h/a"),
            ("http://h:80/a", "http://H/a/b?c=d"),
            ("http://h/a/", "http://h/a"),
            ("http://h", "http://h/anything"),
            ("https://h", "https://h:443/"),
        ] {
            assert!(allows(prefix, url), "{prefix} {url}");
        }
        for (prefix, url) in [
            ("http://h/a", "http://h/ab"),
            ("http://h/a", "http://h/"),
            ("http://h/a", "https://h/a"),
            ("http://h:81/a", "http://h/a"),
            ("http://h", "http://h.evil/"),
            ("http://h", "http://169.254.169.254/latest"),
        ] {
            assert!(!allows(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn a_url_that_hides_where_it_goes_is_none() {
        for url in [
            "",
            "h:80/a",
            "ftp://h/",
            "http://",
            "http://me@h/",
            "http://h/a#b",
            "http://h/a/../b",
            "http://h/a/%2E%2e/b",
            "http://h/a/..;/b",
            "http://h/a/..;x=y/b",
            "http://h/a/.;/b",
            "http://h/a%2fb",
            "http://h/a%5cb",
            "/etc/passwd",
        ] {
            assert!(UrlPrefix::parse(url).is_err(), "{url}");
        }
    }
}
