//! Who they are, how each of them reads, and what that must cover.

use super::Covers::{Every, Filled, Large, Listing, ListingOf, Values};
use super::{Client, Home};

/// An empty segment is a name to S3 only: clients that map keys to paths cannot say it.
const DOUBLE: &str = "odd//double.bin";

/// `curl`, over HTTP/1.1 and HTTP/2.
pub const CURL: Client = Client {
    name: "curl",
    driver: "curl.py",
    home: Home::Everyday,
    fixture: None,
    ways: &[
        ("HTTP/1.1", Every),
        ("h2c", Every),
        ("--parallel", Every),
        ("-C - (resume)", Large),
        ("-r (ranges)", Large),
        ("--etag-compare", Values),
        ("--aws-sigv4", Every),
    ],
    unnamed: &[],
};

/// GNU `wget`, which cannot sign and says who it is by HTTP Basic.
pub const WGET: Client = Client {
    name: "wget",
    driver: "wget.py",
    home: Home::Everyday,
    fixture: None,
    ways: &[("whole", Every), ("-c (resume)", Large), ("-N", Values)],
    unnamed: &[],
};

/// `aria2c`, several connections a file.
pub const ARIA2: Client = Client {
    name: "aria2",
    driver: "aria2.py",
    home: Home::All,
    fixture: None,
    ways: &[("-x 4 -s 4 (split)", Every), ("-c (resume)", Large)],
    unnamed: &[],
};

/// AWS's SDK for Python.
pub const BOTO3: Client = Client {
    name: "boto3",
    driver: "boto.py",
    home: Home::Everyday,
    fixture: None,
    ways: &[
        ("get_object", Every),
        ("download_file", Every),
        ("download_fileobj", Every),
        ("ranges", Large),
        ("paginator", Listing),
        ("presigned", Every),
    ],
    unnamed: &[],
};

/// AWS's command line.
pub const AWS: Client = Client {
    name: "AWS CLI",
    driver: "aws.py",
    home: Home::Everyday,
    fixture: None,
    ways: &[
        ("s3 cp --recursive", Every),
        ("s3 sync", Every),
        ("s3 cp -", Large),
        ("s3 ls --recursive", Listing),
        ("presigned (s3 presign)", Large),
    ],
    unnamed: &[],
};

/// `s5cmd`, on AWS's SDK for Go.
pub const S5CMD: Client = Client {
    name: "s5cmd",
    driver: "s5cmd.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("cp", Every),
        ("cat", Every),
        ("sync", Every),
        ("ls", Listing),
    ],
    unnamed: &[],
};

/// `rclone`.
pub const RCLONE: Client = Client {
    name: "rclone",
    driver: "rclone.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("copy", Every),
        ("cat", Every),
        ("lsf -R", Listing),
        ("check", Values),
    ],
    unnamed: &[DOUBLE],
};

/// `s3fs`, fsspec's S3.
pub const S3FS: Client = Client {
    name: "s3fs (fsspec)",
    driver: "s3fs_fsspec.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("cat_file", Every),
        ("open", Every),
        ("get", Every),
        ("find", Listing),
    ],
    unnamed: &[],
};

/// Arrow's C++ on AWS's SDK for C++.
pub const PYARROW: Client = Client {
    name: "pyarrow",
    driver: "arrow.py",
    home: Home::Everyday,
    fixture: Some("tables"),
    ways: &[
        ("open_input_stream", Every),
        ("open_input_file", Every),
        ("read_table", Values),
        ("dataset", Values),
        ("FileSelector", Listing),
    ],
    unnamed: &[DOUBLE],
};

/// Polars, on Arrow's object_store.
pub const POLARS: Client = Client {
    name: "polars",
    driver: "polars_s3.py",
    home: Home::All,
    fixture: Some("tables"),
    ways: &[
        ("read_parquet", Values),
        ("scan_parquet", Values),
        ("scan_csv", Values),
        ("scan_parquet of a pattern", Values),
    ],
    unnamed: &[],
};

/// Arrow's object_store for Python.
pub const OBSTORE: Client = Client {
    name: "obstore",
    driver: "obstore_s3.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("get", Every),
        ("stream", Every),
        ("get_ranges", Large),
        ("list", ListingOf("plain/")),
        ("presigned", Every),
    ],
    unnamed: &[DOUBLE],
};

/// MinIO's SDK for Python.
pub const MINIO: Client = Client {
    name: "minio-py",
    driver: "minio_py.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("get_object", Every),
        ("fget_object", Every),
        ("ranges", Large),
        ("list_objects", Listing),
        ("presigned", Every),
    ],
    unnamed: &[],
};

/// AWS's Common Runtime: its S3 client in C.
pub const AWSCRT: Client = Client {
    name: "awscrt",
    driver: "crt.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("GET_OBJECT", Every),
        ("recv_filepath", Every),
        ("CRTTransferManager", Every),
    ],
    unnamed: &[],
};

/// The Run:ai model streamer, as vLLM loads by it.
pub const RUNAI: Client = Client {
    name: "Run:ai model streamer",
    driver: "runai.py",
    home: Home::All,
    fixture: Some("model"),
    ways: &[
        ("FileStreamer", Filled),
        ("SafetensorsStreamer", Values),
        ("pull_files", Values),
    ],
    // It asks for the path with one slash.
    unnamed: &[DOUBLE],
};

/// Safetensors, read over fsspec.
pub const SAFETENSORS: Client = Client {
    name: "safetensors over fsspec",
    driver: "tensors.py",
    home: Home::All,
    fixture: Some("model"),
    ways: &[
        ("load of an S3 file", Values),
        ("tensor by tensor over S3", Values),
        ("tensor by tensor over HTTP", Values),
        ("safe_open of a cached file", Values),
    ],
    unnamed: &[],
};

/// AWS's SDK for JavaScript.
pub const NODE: Client = Client {
    name: "@aws-sdk/client-s3",
    driver: "node.mjs",
    home: Home::Node,
    fixture: None,
    ways: &[
        ("GetObjectCommand", Every),
        ("ranges", Large),
        ("paginateListObjectsV2", Listing),
        ("presigned", Every),
    ],
    unnamed: &[],
};

/// Amazon's S3 connector for PyTorch.
pub const S3TORCH: Client = Client {
    name: "s3torchconnector",
    driver: "s3torch.py",
    home: Home::All,
    fixture: None,
    ways: &[
        ("S3MapDataset (sequential)", Every),
        ("S3MapDataset (range_based)", Every),
        ("S3Checkpoint", Large),
        ("from_prefix", Listing),
    ],
    unnamed: &[],
};

/// DuckDB with its extension httpfs.
pub const DUCKDB: Client = Client {
    name: "duckdb (httpfs)",
    driver: "duckdb_httpfs.py",
    home: Home::All,
    fixture: Some("tables"),
    ways: &[
        ("read_blob", Every),
        ("read_parquet", Values),
        ("read_csv", Values),
        ("glob", Listing),
    ],
    // What follows a question mark are settings to it.
    unnamed: &["odd/q?r#s.bin"],
};

/// Those that every run of the tests asks.
pub const EVERYDAY: [&Client; 5] = [&CURL, &WGET, &BOTO3, &AWS, &PYARROW];

/// Those that need the large environment.
pub const OTHERS: [&Client; 13] = [
    &ARIA2,
    &S5CMD,
    &RCLONE,
    &S3FS,
    &POLARS,
    &OBSTORE,
    &MINIO,
    &AWSCRT,
    &RUNAI,
    &SAFETENSORS,
    &NODE,
    &S3TORCH,
    &DUCKDB,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_a_line_for_each_with_its_ways() {
        let readme = include_str!("../../../README.md");
        for client in EVERYDAY.into_iter().chain(OTHERS) {
            let start = format!("| {} | ", client.name);
            let line = readme.lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("README has no line for {}", client.name));
            let ways: Vec<&str> = client.ways.iter().map(|(way, _)| *way).collect();
            assert!(line.contains(&ways.join(", ")), "README is old: {line}");
        }
    }
}
