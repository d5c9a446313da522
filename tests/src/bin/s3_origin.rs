//! `s3-origin ROOT ACCESS_KEY_ID SECRET`: s3s-fs on a free loopback port, with signatures checked.
//!
//! s3s-fs has a binary of its own; this one shares the workspace's build, takes port 0 and says which it got.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(id), Some(secret)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: s3-origin ROOT ACCESS_KEY_ID SECRET");
        return ExitCode::from(2);
    };
    let files = FileSystem::new(root).expect("ROOT is a directory");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(id, secret));
    let service = service.build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("loopback has a free port");
    println!(
        "listening on http://{}",
        listener
            .local_addr()
            .expect("a bound socket has an address")
    );
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            // A client that leaves is no error of the origin's.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}
