//! `POST /-/copy/{dataset}/{prefix}?to=DATASET/PREFIX`: copying, told of line by line while it lasts.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Params, Problem, State};
use crate::copy::{Copy, CopyError, CopyOrder, CopySummary, Place, Progress};
use crate::plain::one_line;
use crate::settings::size;

/// Between two lines.
const EACH: Duration = Duration::from_secs(1);

/// The routes of copying.
pub(super) fn routes() -> axum::Router<Arc<State>> {
    let all = |shared, Path(name): Path<String>, params, headers: HeaderMap| {
        copy(shared, Path((name, String::new())), params, headers)
    };
    axum::Router::new()
        .route("/-/copy/{name}", post(all))
        .route("/-/copy/{name}/", post(all))
        .route("/-/copy/{name}/{*prefix}", post(copy))
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        let status = match error {
            CopyError::Refused(_) => StatusCode::BAD_REQUEST,
            CopyError::Busy(_) | CopyError::Cancelled => StatusCode::CONFLICT,
            CopyError::Object { .. } | CopyError::List(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

async fn copy(
    Shared(state): Shared<Arc<State>>,
    Path((dataset, prefix)): Path<(String, String)>,
    Query(params): Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let order = asked(Place { dataset, prefix }, &params);
    let order = order.map_err(|sentence| Problem::new(StatusCode::BAD_REQUEST, sentence))?;
    let copy = Copy::new(&state.copier, order)?;
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let json = accept.is_some_and(|accept| accept.contains("application/json"));
    let kind = match json {
        true => "application/jsonl",
        false => "text/plain; charset=utf-8",
    };
    let body = Body::from_stream(told(copy, json));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// What a copy from this place is asked for, or what is wrong with it.
fn asked(from: Place, params: &HashMap<String, String>) -> Result<CopyOrder, String> {
    let mut order = CopyOrder {
        from,
        to: Place {
            dataset: String::new(),
            prefix: String::new(),
        },
        glob: None,
        rate: None,
        dry: false,
    };
    for (name, value) in params {
        match name.as_str() {
            "to" => {
                let place = Place::parse(value);
                order.to = place.ok_or("`to` is DATASET or DATASET/PREFIX")?;
            }
            "glob" => order.glob = Some(value.clone()),
            "rate" => {
                let rate = size::parse(value);
                order.rate = Some(rate.map_err(|clause| format!("`rate` {clause}"))?);
            }
            "dry" => {
                order.dry = match value.as_str() {
                    "true" => true,
                    "false" => false,
                    // Whoever meant to look only is not to have copied.
                    _ => return Err("`dry` is true or false".into()),
                };
            }
            // Those of a presigned request were looked at by whoever judged it.
            name if name.to_ascii_lowercase().starts_with("x-amz-") => {}
            name => {
                return Err(format!(
                    "a copy has no parameter {name:?}: it has to, glob, rate and dry"
                ));
            }
        }
    }
    match order.to.dataset.is_empty() {
        true => Err("say where to: ?to=DATASET/PREFIX".into()),
        false => Ok(order),
    }
}

/// A copy that runs, and whoever is told of it. When nobody is any more, it is cancelled.
struct Running {
    progress: Arc<Progress>,
    task: JoinHandle<Result<CopySummary, CopyError>>,
    begun: Instant,
    json: bool,
    _told: oneshot::Sender<()>,
}

enum Next {
    Line(Running),
    /// The body is broken off, for its client to see that the copy did not end well.
    Break,
    Nothing,
}

/// A line now, each second, and at the end.
fn told(copy: Copy, json: bool) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, gone) = oneshot::channel::<()>();
    let progress = copy.progress();
    let task = tokio::spawn(copy.run(async move {
        // Nothing is ever sent: the sender goes with the body.
        let _ = gone.await;
    }));
    let running = Running {
        progress,
        task,
        begun: Instant::now(),
        json,
        _told: sender,
    };
    stream::unfold(Next::Line(running), |next| async move {
        let mut running = match next {
            Next::Line(running) => running,
            Next::Break => {
                // The line before has to leave first.
                tokio::task::yield_now().await;
                let failed = io::Error::other("the copy did not end well");
                return Some((Err(failed), Next::Nothing));
            }
            Next::Nothing => return None,
        };
        let line = match tokio::time::timeout(EACH, &mut running.task).await {
            Err(_) => {
                let line = running.line();
                return Some((Ok(line), Next::Line(running)));
            }
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(CopyError::List("its task ended early: see the log".into())),
        };
        let next = match line.is_ok() || running.json {
            true => Next::Nothing,
            false => Next::Break,
        };
        Some((Ok(running.end(&line)), next))
    })
}

impl Running {
    fn line(&self) -> Bytes {
        let text = match self.json {
            true => format!("{}\n", self.progress.json("running", None)),
            false => self.progress.line(self.begun.elapsed()),
        };
        text.into()
    }

    fn end(&self, ended: &Result<CopySummary, CopyError>) -> Bytes {
        let text = match (ended, self.json) {
            (Ok(_), true) => format!("{}\n", self.progress.json("done", None)),
            (Err(error), true) => {
                let error = error.to_string();
                format!("{}\n", self.progress.json("failed", Some(&error)))
            }
            (Ok(done), false) => format!(
                "done {} objects {} bytes in {:.1}s, {} objects {} bytes were there\n",
                done.objects, done.bytes, done.seconds, done.objects_there, done.bytes_there
            ),
            (Err(error), false) => format!("failed {}\n", one_line(&error.to_string())),
        };
        text.into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dry_copy_is_asked_for_with_true_and_nothing_that_is_neither_copies() {
        let dry = |dry: Option<&str>| {
            let place = Place::parse("a").unwrap();
            let to = ("to".to_owned(), "b/".to_owned());
            let dry = dry.map(|dry| ("dry".to_owned(), dry.to_owned()));
            let params = [to].into_iter().chain(dry).collect();
            asked(place, &params).map(|order| order.dry)
        };
        assert_eq!(dry(None), Ok(false));
        assert_eq!(dry(Some("false")), Ok(false));
        assert_eq!(dry(Some("true")), Ok(true));
        for odd in ["", "1", "yes", "True"] {
            assert_eq!(dry(Some(odd)), Err("`dry` is true or false".to_owned()));
        }
    }
}
