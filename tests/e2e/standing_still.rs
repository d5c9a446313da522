//! Clients that say nothing or take nothing, over HTTP/1.1 and HTTP/2.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::http::Connection;
use forebay_tests::http2::{
    DATA, END_STREAM, FIRST_WINDOW, OPEN_WINDOW, RST_STREAM, Standing, Wire,
};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::scripted::{Gate, Scripted, object};
use forebay_tests::until;

/// How long a client that takes what it asked for may wait while others do not.
const SOON: Duration = Duration::from_secs(5);

/// Bytes that a kernel and an HTTP library together may hold for a connection: such a range can be written by the gateway
/// to its last byte before anybody reads it.
const SWALLOWED: usize = 600_000;

/// A directory with `healthy.bin`, and a gateway over it with little memory.
fn stage(files: &Scratch) -> Gateway {
    files.write("healthy.bin", oracle::bytes("healthy.bin", 1, 4 * BLOCK));
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    Setup::of([Dataset::new("models", path)])
        .cache("memory = \"64MiB\"")
        .start()
}

/// A gateway over the directory that cuts who takes nothing after so long.
fn impatient(files: &Scratch, write_timeout: &str) -> Setup {
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    Setup::of([Dataset::new("models", path)])
        .section(&format!("[limits]\nwrite_timeout = \"{write_timeout}\""))
}

/// A file of zeros that takes no room.
fn zeros(files: &Scratch, name: &str, blocks: usize) {
    let file = File::create(files.path().join(name)).expect("the directory can be written");
    let size = (blocks * BLOCK) as u64;
    file.set_len(size).expect("a file can have holes");
}

/// The same once more of what has to be read from the origin.
fn assert_healthy_when_cold(gateway: &Gateway) {
    let purge = "/-/purge/models/healthy.bin";
    let nothing = &[("Content-Length", "0")];
    let _ = gateway.request("POST", purge, nothing).expect(200);
    assert_healthy(gateway);
}

/// A client with a small window that has asked for a range and takes nothing yet.
fn asking(gateway: &Gateway, range: &str) -> Connection {
    let mut reader = Connection::narrow(gateway.address());
    reader.ask("GET", "/models/cold.bin", &[("Range", range)]);
    reader
}

/// Readers with small windows that have asked for two blocks of their own each, and take nothing yet.
fn seven_hundred(gateway: &Gateway) -> Vec<Connection> {
    let range = |place: usize| {
        let first = 2 * place * BLOCK;
        format!("bytes={first}-{}", first + 2 * BLOCK - 1)
    };
    (0..700)
        .map(|place| asking(gateway, &range(place)))
        .collect()
}

fn assert_healthy(gateway: &Gateway) {
    let begun = Instant::now();
    let answer = gateway.get("/models/healthy.bin").expect(200);
    let took = begun.elapsed();
    let expected = oracle::bytes("healthy.bin", 1, 4 * BLOCK);
    assert_bytes("the healthy client", &answer.body, &expected);
    assert!(took < SOON, "the healthy client waited {took:?}");
}

#[test]
fn a_reader_that_takes_nothing_is_cut_after_write_timeout() {
    let files = Scratch::new("files");
    let bytes = oracle::bytes("a.bin", 1, 2 * BLOCK);
    files.write("a.bin", &bytes);
    let gateway = impatient(&files, "1s").allow("cut").start();
    let begun = Instant::now();
    let mut reader = Connection::narrow(gateway.address());
    let range = format!("bytes=0-{}", SWALLOWED - 1);
    reader.ask("GET", "/models/a.bin", &[("Range", &range)]);
    assert_eq!(reader.head().expect("an answer").status, 206);
    // The connection that asks for the metrics is one.
    until(Duration::from_secs(10), "the reader to be cut", || {
        (gateway.metric("forebay_connections", &[]) == 1.0).then_some(())
    });
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "cut after {took:?}");
    let body = reader.read(SWALLOWED);
    assert!(body.len() < SWALLOWED, "all of it had left already");
    assert_bytes("what came", &body, &bytes[..body.len()]);
}

/// How often a slow client takes a little.
const NOW_AND_THEN: Duration = Duration::from_millis(250);
const TIMES: usize = 20;

#[test]
fn a_reader_that_was_quick_and_takes_a_little_now_and_then_is_not_cut() {
    // Within `write_timeout` it takes less than two thirds of what the gateway's kernel holds for it, so that the gateway hands out
    // nothing meanwhile, and some times the sixteenth of its own buffer below which its kernel tells nobody. That buffer may
    // hold more than it should at first, and then its kernel tells nobody until that is taken too.
    const LITTLE: usize = 50 << 10;
    const BUFFER: u32 = 1 << 20;
    let files = Scratch::new("files");
    let bytes = oracle::bytes("a.bin", 1, 48 * BLOCK);
    files.write("a.bin", &bytes);
    let gateway = impatient(&files, "3s").start();
    let mut reader = Connection::holding(gateway.address(), BUFFER);
    reader.ask("GET", "/models/a.bin", &[]);
    assert_eq!(reader.head().expect("an answer").status, 200);
    let mut body = reader.read(12 * BLOCK);
    for _ in 0..TIMES {
        std::thread::sleep(NOW_AND_THEN);
        body.extend(reader.read(LITTLE));
    }
    // All that had left before was taken long ago if it comes to its end.
    body.extend(reader.read(bytes.len() - body.len()));
    assert_bytes("the body", &body, &bytes);
}

#[test]
fn a_stream_that_takes_a_little_now_and_then_is_not_reset() {
    const LITTLE: usize = 4096;
    let files = Scratch::new("files");
    let bytes = oracle::bytes("a.bin", 1, BLOCK);
    files.write("a.bin", &bytes);
    let gateway = impatient(&files, "1s").start();
    // From memory all that a stream may hold is handed out at once.
    let _ = gateway.get("/models/a.bin").expect(200);
    let little = u32::try_from(LITTLE).expect("it is little");
    let mut wire = Wire::open(gateway.address(), little);
    wire.widen(0, OPEN_WINDOW - FIRST_WINDOW);
    wire.ask(1, "/models/a.bin");
    let mut body = taken(&mut wire, 1, LITTLE);
    for _ in 0..TIMES {
        std::thread::sleep(NOW_AND_THEN);
        wire.widen(1, little);
        body.extend(taken(&mut wire, 1, LITTLE));
    }
    wire.widen(1, OPEN_WINDOW - little);
    let rest = bytes.len() - body.len();
    body.extend(taken(&mut wire, 1, rest));
    assert_bytes("the body", &body, &bytes);
}

#[test]
fn every_reader_that_is_cut_is_counted() {
    const READERS: usize = 8;
    let files = Scratch::new("files");
    zeros(&files, "cold.bin", 16);
    let gateway = impatient(&files, "1s").allow("cut").start();
    let mut readers: Vec<Connection> = (0..READERS).map(|_| asking(&gateway, "bytes=0-")).collect();
    for reader in &mut readers {
        assert_eq!(reader.head().expect("an answer").status, 206);
    }
    until(Duration::from_secs(10), "the readers to be cut", || {
        (gateway.metric("forebay_connections", &[]) == 1.0).then_some(())
    });
    let cut = gateway.metric("forebay_cut_bodies_total", &[("reason", "write_timeout")]);
    assert_eq!(cut, READERS as f64);
}

#[test]
fn a_stream_whose_socket_is_full_for_write_timeout_is_counted_as_cut() {
    let files = Scratch::new("files");
    zeros(&files, "cold.bin", 64);
    let gateway = impatient(&files, "1s").allow("cut").start();
    let _standing = Standing::ask(
        gateway.address(),
        &["/models/cold.bin".to_owned()],
        OPEN_WINDOW,
    );
    until(Duration::from_secs(10), "the client to be cut", || {
        (gateway.metric("forebay_connections", &[]) == 1.0).then_some(())
    });
    let cut = gateway.metric("forebay_cut_bodies_total", &[("reason", "write_timeout")]);
    assert_eq!(cut, 1.0);
}

#[test]
fn two_hundred_readers_that_take_nothing_keep_no_memory_from_others() {
    let files = Scratch::new("files");
    zeros(&files, "cold.bin", 400);
    let gateway = stage(&files);
    let mut readers: Vec<Connection> = (0..200)
        .map(|place| {
            let first = 2 * place * BLOCK + 500_000;
            let range = format!("bytes={first}-{}", first + SWALLOWED - 1);
            asking(&gateway, &range)
        })
        .collect();
    assert_healthy(&gateway);
    for reader in &mut readers {
        assert_eq!(reader.head().expect("an answer").status, 206);
    }
    // Another one, now that all of them stand still.
    assert_healthy_when_cold(&gateway);
}

#[test]
fn seven_hundred_readers_that_stop_leave_room_for_whoever_can_take() {
    let files = Scratch::new("files");
    zeros(&files, "cold.bin", 2 * 700);
    let gateway = stage(&files);
    let mut readers = seven_hundred(&gateway);
    assert_healthy(&gateway);
    // Two segments each would be more than there is of memory.
    for reader in &mut readers {
        assert_eq!(reader.head().expect("an answer").status, 206);
    }
    assert_healthy_when_cold(&gateway);
    // And those that stopped go on when they will.
    for reader in readers.iter_mut().rev().take(50) {
        assert_eq!(reader.read(BLOCK), vec![0; BLOCK]);
    }
}

/// Without it 4 MiB of each answer left in copies of 2 KiB, for as long as others' sockets held their share.
#[test]
fn who_took_what_came_is_served_whole_segments_beside_those_that_stop() {
    const SIZE: usize = 4 * BLOCK;
    let files = Scratch::new("files");
    zeros(&files, "cold.bin", 2 * 700);
    files.write("a.bin", oracle::bytes("a.bin", 1, SIZE));
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .cache("memory = \"128MiB\"")
        .start();
    let mut readers = seven_hundred(&gateway);
    for reader in &mut readers {
        assert_eq!(reader.head().expect("an answer").status, 206);
    }
    let mut quick = Connection::open(gateway.address());
    // It has to take 8 MiB without a pause, which a busy machine may deny it for a while.
    until(Duration::from_secs(30), "an answer in few writes", || {
        let before = writes(&gateway);
        let body = quick.request("GET", "/models/a.bin", &[]).expect(200).body;
        let written = writes(&gateway) - before;
        assert_eq!(body.len(), SIZE);
        (written < (SIZE / (16 << 10)) as u64).then_some(())
    });
}

/// Writes of the gateway's process so far (proc_pid_io(5)).
fn writes(gateway: &Gateway) -> u64 {
    let path = format!("/proc/{}/io", gateway.process().pid());
    let text = std::fs::read_to_string(path).expect("its figures can be read");
    let line = text.lines().find_map(|line| line.strip_prefix("syscw: "));
    line.and_then(|count| count.parse().ok())
        .expect("a count of writes")
}

#[test]
fn streams_that_stand_still_keep_no_memory_from_others() {
    let files = Scratch::new("files");
    for name in 0..16 {
        zeros(&files, &format!("{name}.bin"), 32);
    }
    let gateway = stage(&files);
    let targets: Vec<String> = (0..16).map(|name| format!("/models/{name}.bin")).collect();
    // Held back by the streams' windows, and by the socket.
    let _windows = Standing::ask(gateway.address(), &targets[..8], FIRST_WINDOW);
    let _socket = Standing::ask(gateway.address(), &targets[8..], OPEN_WINDOW);
    assert_healthy(&gateway);
}

/// A stream whose window is shut is asked for nothing, not even to look at what it waited for.
#[test]
fn streams_that_stand_still_before_their_blocks_come_keep_no_memory_from_others() {
    let files = Scratch::new("files");
    let gate = Arc::new(Gate::default());
    let barrier = Arc::clone(&gate);
    let bytes = vec![0; 32 * BLOCK];
    let origin = Scripted::speaking(move |asked, out| {
        let answer = object(asked, "\"tag\"", "", &bytes);
        let (first, rest) = answer.split_at(answer.len().min(100 << 10));
        out.write_all(first)?;
        if !rest.is_empty() {
            barrier.pass();
        }
        out.write_all(rest)
    });
    files.write("healthy.bin", oracle::bytes("healthy.bin", 1, 4 * BLOCK));
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let slow = Dataset::new("slow", format!("{}/", origin.url())).line("immutable = true");
    let gateway = Setup::of([Dataset::new("models", path), slow])
        .cache("memory = \"64MiB\"")
        .start();
    let mut wires: Vec<Wire> = (0..4)
        .map(|name| {
            let mut wire = Wire::open(gateway.address(), FIRST_WINDOW);
            wire.ask(1, &format!("/slow/{name}.bin"));
            wire
        })
        .collect();
    for wire in &mut wires {
        let _ = taken(wire, 1, FIRST_WINDOW as usize);
    }
    gate.open();
    assert_healthy(&gateway);
}

#[test]
fn silent_sockets_give_their_places_up_after_header_timeout() {
    let files = Scratch::new("files");
    files.write("a.bin", "abc");
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .section("[limits]\nheader_timeout = \"1s\"\nmax_connections = 3")
        .start();
    let begun = Instant::now();
    let said: [&[u8]; 3] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"GET /models/a.bin HTTP/1.1\r\nHo",
    ];
    let silent = said.map(|words| {
        let mut connection = Connection::open(gateway.address());
        connection.send(words);
        connection
    });
    // Until then it is turned away.
    let answer = until(SOON, "a place", || {
        let answer = gateway.get("/models/a.bin");
        (answer.status != 503).then_some(answer)
    });
    assert_eq!(answer.expect(200).body, b"abc");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < SOON,
        "served after {took:?}"
    );
    for (mut connection, words) in silent.into_iter().zip(said) {
        let answer = connection.answer(false);
        let refused = answer.as_ref().is_none_or(|answer| answer.status == 408);
        assert!(refused, "{words:?}: {answer:?}");
    }
}

/// Reads frames until so many bytes of a stream have come.
fn taken(wire: &mut Wire, id: u32, bytes: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < bytes {
        let frame = wire.receive().expect("the connection lasts");
        if frame.kind == DATA && frame.id == id {
            taken.extend(frame.payload);
        }
    }
    taken
}

#[test]
fn the_last_bytes_of_a_stream_outlive_idle_timeout() {
    let files = Scratch::new("files");
    let bytes = oracle::bytes("a.bin", 1, 60_000);
    files.write("a.bin", &bytes);
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .section("[limits]\nidle_timeout = \"500ms\"")
        .start();
    let mut wire = Wire::open(gateway.address(), 59_990);
    wire.ask(1, "/models/a.bin");
    let mut body = taken(&mut wire, 1, 59_990);
    // The rest waits for a client that thinks, for longer than a connection may be idle.
    std::thread::sleep(Duration::from_secs(2));
    wire.widen(1, 1000);
    body.extend(taken(&mut wire, 1, 10));
    assert_bytes("the body", &body, &bytes);
    let end = until(Duration::from_secs(5), "the stream's end", || {
        wire.receive()
    });
    assert!(end.kind == DATA && end.flags & END_STREAM != 0, "{end:?}");
}

#[test]
fn a_stream_that_takes_nothing_is_reset_after_write_timeout_and_its_connection_goes_on() {
    let files = Scratch::new("files");
    let bytes = oracle::bytes("a.bin", 1, 4 * BLOCK);
    files.write("a.bin", &bytes);
    files.write("b.bin", "abc");
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .section("[limits]\nwrite_timeout = \"1s\"\nmax_requests = 2")
        .start();
    // One in the middle of an answer, one before its first byte: both have a permit.
    let mut wire = Wire::open(gateway.address(), 100_000);
    wire.ask(1, "/models/a.bin");
    let begun = taken(&mut wire, 1, FIRST_WINDOW as usize);
    assert_bytes("what came", &begun, &bytes[..begun.len()]);
    wire.ask(3, "/models/a.bin");
    let begun = Instant::now();
    let mut reset = Vec::new();
    while reset.len() < 2 {
        let frame = wire.receive().expect("the connection lasts");
        if frame.kind == RST_STREAM {
            reset.push(frame.id);
        }
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(800), "reset after {took:?}");
    reset.sort_unstable();
    assert_eq!(reset, [1, 3]);
    // Nobody else had a turn meanwhile, and now everybody has.
    wire.widen(0, 1 << 20);
    wire.ask(5, "/models/b.bin");
    assert_eq!(taken(&mut wire, 5, 3), b"abc");
    let _ = gateway.get("/models/b.bin").expect(200);
    let cut = gateway.metric("forebay_cut_bodies_total", &[("reason", "write_timeout")]);
    assert_eq!(cut, 2.0);
    until(SOON, "their segments to be free", || {
        let cached = gateway.metric("forebay_cache_bytes", &[("tier", "memory")]);
        let leased = gateway.metric("forebay_leased_bytes", &[]);
        // Two connections have places of 44 KiB, and a cached block's lease covers its entry as well,
        // but there is no segment more.
        (leased - cached < 2.0 * 45_056.0 + 65_536.0).then_some(())
    });
}
