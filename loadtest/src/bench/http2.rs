//! The client over HTTP/2 with prior knowledge: hyper's, since frames must be read by somebody.
//!
//! It costs more than a server does, so these rows are judged by the server's processor time.

use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::load::{Counters, Picker, Target};
use crate::pattern;

/// Requests at once on a connection.
pub(super) const STREAMS: u64 = 8;

/// Windows that do not slow anybody down, and frames of the size that clients leave at the default.
const WINDOW: u32 = 16 << 20;

/// Reads on one connection, a stream for each picker, until something fails.
pub(super) async fn read_on(
    target: Target,
    pickers: Vec<Picker>,
    counters: Counters,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(target.address)
        .await
        .context("connect")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .context("open an HTTP/2 connection")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { driver.await.context("the connection ended") });
    for picker in pickers {
        tasks.spawn(read_stream(
            sender.clone(),
            target.clone(),
            picker,
            counters.clone(),
        ));
    }
    // None ends but by failing.
    while let Some(ended) = tasks.join_next().await {
        ended.context("a reader ended early")??;
    }
    Ok(())
}

async fn read_stream(
    mut sender: SendRequest<Empty<Bytes>>,
    target: Target,
    mut picker: Picker,
    counters: Counters,
) -> anyhow::Result<()> {
    let mut first = true;
    loop {
        let ask = picker.next();
        let uri = format!("http://localhost{}/{}", target.prefix, ask.key);
        let mut request = Request::builder().uri(uri);
        if let Some(range) = ask.range(&target) {
            request = request.header(header::RANGE, range);
        }
        let request = request.body(Empty::new()).context("make request")?;
        sender.ready().await.context("wait for a stream")?;
        let answer = sender.send_request(request).await.context("send request")?;
        ensure!(answer.status().is_success(), "answered {}", answer.status());
        let mut body = answer.into_body();
        let mut length = 0;
        // The first answer of each stream is compared; to compare all would measure this side.
        let seed = first.then(|| pattern::seed(&ask.key, 0));
        first = false;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("read answer")?.into_data() {
                if let Some(seed) = seed {
                    pattern::check(seed, ask.offset + length, &data).context("a wrong byte")?;
                }
                length += data.len() as u64;
                counters
                    .bytes
                    .fetch_add(data.len() as u64, Ordering::Relaxed);
            }
        }
        ensure!(
            length == ask.length,
            "{length} bytes came, not {}",
            ask.length
        );
        counters.requests.fetch_add(1, Ordering::Relaxed);
    }
}
