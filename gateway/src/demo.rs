//! The dataset `demo`: a model of random weights with real headers, made once.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// Files of weights.
const SHARDS: usize = 2;

/// Tensors in each.
const TENSORS: usize = 16;

/// The shape of each, in 16-bit floats: 8 MiB.
const SHAPE: [usize; 2] = [2048, 2048];

const TENSOR_BYTES: usize = SHAPE[0] * SHAPE[1] * 2;

/// A file that is there is whole: it gets its name once it is.
const UNFINISHED: &str = ".part";

/// The names of the demo's files, the largest first.
pub fn shard_name(shard: usize) -> String {
    format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1)
}

/// Makes the demo's files below `data_dir`, those that are not there yet: 256 MiB in all. Returns
/// their directory.
///
/// # Errors
/// If the disk does not take them.
pub fn make(data_dir: &Path) -> io::Result<PathBuf> {
    let directory = data_dir.join("demo");
    std::fs::create_dir_all(&directory)?;
    let mut weights = Map::new();
    for shard in 0..SHARDS {
        for tensor in 0..TENSORS {
            weights.insert(tensor_name(shard, tensor), json!(shard_name(shard)));
        }
        once(&directory.join(shard_name(shard)), |file| {
            write_shard(file, shard)
        })?;
    }
    let total = SHARDS * TENSORS * TENSOR_BYTES;
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weights });
    let config = json!({
        "architectures": ["DemoModel"],
        "hidden_size": SHAPE[0],
        "num_hidden_layers": SHARDS * TENSORS,
        "torch_dtype": "bfloat16",
    });
    once(&directory.join("model.safetensors.index.json"), |file| {
        serde_json::to_writer_pretty(file, &index).map_err(io::Error::from)
    })?;
    once(&directory.join("config.json"), |file| {
        serde_json::to_writer_pretty(file, &config).map_err(io::Error::from)
    })?;
    Ok(directory)
}

fn once(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut part = path.as_os_str().to_owned();
    part.push(UNFINISHED);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&part)?);
    write(&mut file)?;
    file.flush()?;
    std::fs::rename(part, path)
}

fn tensor_name(shard: usize, tensor: usize) -> String {
    format!("model.layers.{}.weight", shard * TENSORS + tensor)
}

/// The safetensors format: the header's length in 8 bytes, the header as JSON padded with spaces
/// to a multiple of 8, then the tensors.
fn write_shard(file: &mut impl Write, shard: usize) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    for tensor in 0..TENSORS {
        let begin = tensor * TENSOR_BYTES;
        let offsets = [begin, begin + TENSOR_BYTES];
        let entry = json!({ "dtype": "BF16", "shape": SHAPE, "data_offsets": offsets });
        header.insert(tensor_name(shard, tensor), entry);
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut piece = vec![0; 64 * 1024];
    for number in 0..TENSORS * TENSOR_BYTES / piece.len() {
        fill(&mut piece, (shard as u64) << 32 | number as u64);
        file.write_all(&piece)?;
    }
    Ok(())
}

/// Small random weights as bfloat16: sign and mantissa at random, exponents around 2^-6.
fn fill(piece: &mut [u8], seed: u64) {
    let mut state = xxh3_64(&seed.to_le_bytes());
    for chunk in piece.chunks_exact_mut(8) {
        // A 64-bit linear congruential generator (Knuth's constants): it only has to look random.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 16) & 0x807f_807f_807f_807f | 0x3c00_3c00_3c00_3c00;
        chunk.copy_from_slice(&random.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_shard_is_as_long_as_its_header_says() {
        let mut shard = Vec::new();
        write_shard(&mut shard, 1).unwrap();
        let length = u64::from_le_bytes(shard[..8].try_into().unwrap()) as usize;
        assert_eq!(length % 8, 0);
        let header: Value = serde_json::from_slice(&shard[8..8 + length]).unwrap();
        let last = &header[tensor_name(1, TENSORS - 1)]["data_offsets"][1];
        assert_eq!(last.as_u64().unwrap() as usize, shard.len() - 8 - length);
    }
}
