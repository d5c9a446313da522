//! Clients that exist, unmodified: cold and hot, signed and not, every byte compared.
//!
//! Those that are large to install are ignored here and run by `tests/run --all`.

use forebay_tests::clients::door::Door;
use forebay_tests::clients::ground::{Counts, Ground};
use forebay_tests::clients::table;

macro_rules! clients {
    ($($(#[$attribute:meta])* $name:ident: $client:ident,)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            let _ = table::$client.run();
        }
    )*};
}

clients! {
    curl_reads_cold_and_hot: CURL,
    wget_reads_cold_and_hot: WGET,
    boto3_reads_cold_and_hot: BOTO3,
    the_aws_command_line_reads_cold_and_hot: AWS,
    pyarrow_reads_cold_and_hot: PYARROW,
    #[ignore = "tests/run --all installs it"]
    aria2_reads_cold_and_hot: ARIA2,
    #[ignore = "tests/run --all installs it"]
    s5cmd_reads_cold_and_hot: S5CMD,
    #[ignore = "tests/run --all installs it"]
    rclone_reads_cold_and_hot: RCLONE,
    #[ignore = "tests/run --all installs it"]
    s3fs_reads_cold_and_hot: S3FS,
    #[ignore = "tests/run --all installs it"]
    polars_reads_cold_and_hot: POLARS,
    #[ignore = "tests/run --all installs it"]
    obstore_reads_cold_and_hot: OBSTORE,
    #[ignore = "tests/run --all installs it"]
    minio_py_reads_cold_and_hot: MINIO,
    #[ignore = "tests/run --all installs it"]
    awscrt_reads_cold_and_hot: AWSCRT,
    #[ignore = "tests/run --all installs it"]
    the_runai_streamer_loads_a_real_model_bit_by_bit: RUNAI,
    #[ignore = "tests/run --all installs it"]
    safetensors_over_fsspec_load_a_real_model_bit_by_bit: SAFETENSORS,
    #[ignore = "tests/run --all installs it"]
    node_reads_cold_and_hot: NODE,
    #[ignore = "tests/run --all installs it"]
    s3torchconnector_reads_cold_and_hot: S3TORCH,
    #[ignore = "tests/run --all installs it"]
    duckdb_reads_cold_and_hot: DUCKDB,
}

#[test]
#[should_panic(expected = "the origin was asked again")]
fn an_origin_that_is_asked_again_is_seen() {
    let ground = Ground::new(&table::CURL);
    let gateway = ground.gateway(Door::Open);
    let before = Counts::of(&gateway);
    let _ = gateway.get("/models/plain/one.bin").expect(200);
    before.nothing_was_read_again(&gateway, "one read of a cold object");
}
