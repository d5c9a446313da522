//! What a client's socket promises, over a pipe and a clock that is moved.

#![allow(clippy::unwrap_used)]
use super::*;
use http::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Patience = Patience {
    header: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    write: Duration::from_secs(300),
};

fn timed<S>(stream: S) -> (Timed<S>, Exchanges) {
    let exchanges = Exchanges::default();
    (Timed::new(stream, PATIENCE, exchanges.clone()), exchanges)
}

/// Waits for the socket to give up, and says how long that took.
async fn given_up<S: AsyncRead + Unpin>(socket: &mut Timed<S>) -> Duration {
    let begun = Instant::now();
    let error = socket.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_says_nothing_fails_after_header_timeout() {
    let (ours, _theirs) = tokio::io::duplex(1);
    let (mut socket, _exchanges) = timed(ours);
    assert_eq!(given_up(&mut socket).await, PATIENCE.header);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_a_byte_at_a_time_has_header_timeout_in_all() {
    let (ours, mut theirs) = tokio::io::duplex(1);
    let (mut socket, _exchanges) = timed(ours);
    let dripping = tokio::spawn(async move {
        while theirs.write_u8(7).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let begun = Instant::now();
    while socket.read_u8().await.is_ok() {}
    assert_eq!(begun.elapsed(), PATIENCE.header);
    drop(socket);
    dripping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_any_time_and_idle_timeout_begins_with_its_end() {
    let (ours, _theirs) = tokio::io::duplex(1);
    let (mut socket, exchanges) = timed(ours);
    let exchange = exchanges.begin(Version::HTTP_2);
    let answering = tokio::spawn(async move {
        tokio::time::sleep(PATIENCE.idle * 5).await;
        drop(exchange);
    });
    assert_eq!(given_up(&mut socket).await, PATIENCE.idle * 6);
    answering.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_http1_the_end_of_an_answer_is_found_out_though_nobody_tells() {
    for before in [PATIENCE.header / 2, PATIENCE.header * 2, PATIENCE.idle * 3] {
        let (ours, _theirs) = tokio::io::duplex(1);
        let (mut socket, exchanges) = timed(ours);
        let exchange = exchanges.begin(Version::HTTP_11);
        let answering = tokio::spawn(async move {
            tokio::time::sleep(before).await;
            drop(exchange);
        });
        let took = given_up(&mut socket).await - before;
        let latest = PATIENCE.idle + PATIENCE.idle / LOOKS;
        assert!(
            (PATIENCE.idle..=latest).contains(&took),
            "{before:?}: {took:?}"
        );
        answering.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_head_has_header_timeout_from_its_first_byte() {
    let (ours, mut theirs) = tokio::io::duplex(1);
    let (mut socket, exchanges) = timed(ours);
    drop(exchanges.begin(Version::HTTP_11));
    let speaking = tokio::spawn(async move {
        tokio::time::sleep(PATIENCE.idle / 2).await;
        theirs.write_u8(7).await.unwrap();
        theirs
    });
    assert_eq!(socket.read_u8().await.unwrap(), 7);
    assert_eq!(given_up(&mut socket).await, PATIENCE.header);
    let _theirs = speaking.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_request_starts_idle_timeout_anew() {
    let (ours, _theirs) = tokio::io::duplex(1);
    let (mut socket, exchanges) = timed(ours);
    for _ in 0..3 {
        drop(exchanges.begin(Version::HTTP_11));
        let waiting = tokio::time::timeout(PATIENCE.idle / 2, socket.read_u8());
        assert!(waiting.await.is_err());
    }
    drop(exchanges.begin(Version::HTTP_11));
    assert_eq!(given_up(&mut socket).await, PATIENCE.idle);
}

#[tokio::test(start_paused = true)]
async fn the_last_bytes_of_an_answer_may_be_taken_slowly() {
    let (ours, mut theirs) = tokio::io::duplex(1);
    let (socket, exchanges) = timed(ours);
    drop(exchanges.begin(Version::HTTP_11));
    let (mut reading, mut writing) = tokio::io::split(socket);
    let writing = tokio::spawn(async move { writing.write_all(b"123").await.unwrap() });
    let begun = Instant::now();
    let taking = tokio::spawn(async move {
        for _ in 0..2 {
            tokio::time::sleep(PATIENCE.idle * 2).await;
            theirs.read_u8().await.unwrap();
        }
        theirs
    });
    let error = reading.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), PATIENCE.idle * 5);
    writing.await.unwrap();
    let _theirs = taking.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_was_turned_away_is_gone_soon() {
    let (ours, _theirs) = tokio::io::duplex(1);
    let (mut socket, exchanges) = timed(ours);
    drop(exchanges.begin(Version::HTTP_2));
    exchanges.end();
    assert_eq!(given_up(&mut socket).await, LINGER);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_nothing_fails_after_write_timeout() {
    let (ours, mut theirs) = tokio::io::duplex(1);
    let (mut socket, _exchanges) = timed(ours);
    socket.write_all(b"1").await.unwrap();
    let begun = Instant::now();
    let writing = tokio::spawn(async move { socket.write_all(b"23").await });
    tokio::time::sleep(PATIENCE.write / 2).await;
    assert_eq!(theirs.read_u8().await.unwrap(), b'1');
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(
        begun.elapsed(),
        PATIENCE.write / 2 + PATIENCE.write,
        "each byte taken starts the time anew"
    );
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_counts_from_the_last_byte_taken_not_from_when_that_was_seen() {
    let (ours, _theirs) = tokio::io::duplex(8);
    let (mut socket, exchanges) = timed(ours);
    drop(exchanges.begin(Version::HTTP_11));
    let waiting = tokio::time::timeout(Duration::from_secs(1), socket.read_u8());
    assert!(waiting.await.is_err());
    socket.write_all(b"1").await.unwrap();
    tokio::time::sleep(PATIENCE.idle / 2).await;
    assert_eq!(given_up(&mut socket).await, PATIENCE.idle / 2);
}

/// Takes all that is written, and never gives it to anybody, as TLS does over a socket that is full.
struct Holding;

impl AsyncRead for Holding {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Holding {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn what_tls_holds_back_has_write_timeout_from_the_last_byte_that_the_socket_took() {
    let (mut socket, exchanges) = timed(Holding);
    drop(exchanges.begin(Version::HTTP_11));
    socket.write_all(b"the end of an answer").await.unwrap();
    let begun = Instant::now();
    let took = exchanges.clone();
    let flushing = tokio::spawn(async move {
        let (mut reading, mut writing) = tokio::io::split(socket);
        let silence = tokio::spawn(async move { reading.read_u8().await.unwrap_err() });
        let error = writing.flush().await.unwrap_err();
        assert!(
            !silence.is_finished(),
            "idle_timeout is for those that are sent nothing"
        );
        silence.abort();
        error
    });
    tokio::time::sleep(PATIENCE.write / 2).await;
    took.took();
    let error = flushing.await.unwrap();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= PATIENCE.write, "{:?}", begun.elapsed());
    assert!(exchanges.blocked_until() <= Instant::now());
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_nobody_takes_has_write_timeout() {
    let (mut socket, _exchanges) = timed(Holding);
    let begun = Instant::now();
    let error = socket.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), PATIENCE.write);
}

#[tokio::test(start_paused = true)]
async fn half_an_http2_head_has_header_timeout_while_answers_run() {
    let (ours, mut theirs) = tokio::io::duplex(100);
    let (mut socket, exchanges) = timed(ours);
    let _running = exchanges.begin(Version::HTTP_2);
    theirs
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    // HEADERS of stream 1 without END_HEADERS, whole; its continuation does not come.
    theirs
        .write_all(&[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82])
        .await
        .unwrap();
    let mut head = [0; 34];
    socket.read_exact(&mut head).await.unwrap();
    assert_eq!(given_up(&mut socket).await, PATIENCE.header);
}

#[tokio::test(start_paused = true)]
async fn a_flood_ends_its_connection() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut socket, exchanges) = timed(ours);
    theirs
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
    for _ in 0..1001 {
        theirs.write_all(&ping).await.unwrap();
    }
    let mut read = vec![0; 4096];
    while socket.read(&mut read).await.is_ok() {}
    assert!(exchanges.flooded());
}
