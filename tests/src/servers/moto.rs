//! moto's server: S3 with versions and multipart uploads; looks at no signature.

use std::net::SocketAddr;

use super::free_address;
use crate::cluster::{Dataset, SECRET};
use crate::http::{self, Answer, Connection};
use crate::process::{Process, command};
use crate::tools;

// moto takes a request without any for one of the public, and refuses that.
const SIGNED: (&str, &str) = (
    "Authorization",
    "AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0",
);

/// A running server.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    address: SocketAddr,
}

impl Moto {
    /// Starts it, empty.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Moto {
        let address = free_address();
        let mut command = command(&tools::python("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let mut process = Process::start("moto", &mut command);
        process.listens(address);
        Moto { process, address }
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A dataset whose origin is `bucket` here.
    #[must_use]
    pub fn dataset(&self, name: &str, bucket: &str) -> Dataset {
        Dataset::new(name, format!("s3://{bucket}"))
            .option("aws_endpoint", self.url())
            .option("aws_region", "us-east-1")
            .option("aws_access_key_id", "AK")
            .option("aws_secret_access_key", SECRET)
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn bucket(&self, bucket: &str) {
        self.upload("PUT", &format!("/{bucket}"), b"").expect(200);
    }

    /// Puts an object.
    ///
    /// # Panics
    /// If it cannot be put.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        self.upload("PUT", &http::target(bucket, key), bytes)
            .expect(200);
    }

    /// Gets an object as it is, past every gateway.
    ///
    /// # Panics
    /// If no answer comes.
    #[must_use]
    pub fn get(&self, bucket: &str, key: &str) -> Answer {
        http::request(self.address, "GET", &http::target(bucket, key), &[SIGNED])
    }

    /// The uploads in parts that were begun in a bucket and not ended, as XML.
    ///
    /// # Panics
    /// If no answer comes.
    #[must_use]
    pub fn uploads(&self, bucket: &str) -> String {
        let target = format!("/{bucket}?uploads");
        http::request(self.address, "GET", &target, &[SIGNED])
            .expect(200)
            .text()
    }

    /// Puts an object into the bucket `weights` with this checksum of its bytes, in base64, which nobody looks at.
    ///
    /// # Panics
    /// If it cannot be put.
    pub fn put_with(&self, key: &str, bytes: &[u8], algorithm: &str, sum: &str) {
        let name = format!("x-amz-checksum-{algorithm}");
        let headers = [
            SIGNED,
            ("Content-Type", "application/octet-stream"),
            ("x-amz-sdk-checksum-algorithm", algorithm),
            (name.as_str(), sum),
        ];
        Connection::open(self.address)
            .upload("PUT", &http::target("weights", key), &headers, bytes)
            .expect(200);
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// If it cannot be deleted.
    pub fn delete(&self, bucket: &str, key: &str) {
        self.upload("DELETE", &http::target(bucket, key), b"")
            .expect(204);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn upload(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        let headers = [SIGNED, ("Content-Type", "application/octet-stream")];
        Connection::open(self.address).upload(method, target, &headers, body)
    }
}
