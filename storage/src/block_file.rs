//! Files of records that follow each other: what a backup is made of. Written and read as a stream.
//!
//! ```text
//! file    magic 8 | block … | end block
//! block   length u32 LE | number u32 LE | crc32c u32 LE over number and length | record
//! end     length 0 | number u32 LE | crc32c
//! ```
//!
//! A record has a checksum of its own ([`crate::codec`]); its number is in the head, so that blocks can't be swapped, lost or
//! doubled, and the end is a block, so that a file that was cut short is never taken for a whole one. Memory: one record.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use thiserror::Error;

use crate::codec::{self, CodecError, RECORD_BYTES_MAX, Record};

const MAGIC: [u8; 8] = *b"MUSTBLKS";

/// Length, number and checksum in front of a record.
const HEAD_BYTES: usize = 4 + 4 + 4;

/// What can go wrong with a file of records.
#[derive(Debug, Error)]
pub enum BlockFileError {
    /// It is cut short, flipped or no such file.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    /// A record does not read.
    #[error("a record of the file does not read")]
    Codec(#[from] CodecError),
    /// The disk reports an error.
    #[error("the file cannot be read or written")]
    Io(#[from] io::Error),
}

/// Writes records into a new file that only its owner may read.
pub struct BlockFileWriter {
    file: BufWriter<File>,
    blocks: u32,
}

impl BlockFileWriter {
    /// Starts a file; one that is there is replaced.
    ///
    /// # Errors
    /// [`BlockFileError::Io`].
    pub fn create(path: &Path) -> Result<BlockFileWriter, BlockFileError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        let mut file = BufWriter::new(file);
        file.write_all(&MAGIC)?;
        Ok(BlockFileWriter { file, blocks: 0 })
    }

    /// Adds a record by its bytes, as [`codec::encode`] made them.
    ///
    /// # Errors
    /// [`BlockFileError::Io`]; [`BlockFileError::Damaged`] for no bytes at all.
    pub fn push(&mut self, record: &[u8]) -> Result<(), BlockFileError> {
        if record.is_empty() {
            return Err(BlockFileError::Damaged("a record has no bytes"));
        }
        self.block(record)
    }

    /// Ends the file and makes it durable.
    ///
    /// # Errors
    /// [`BlockFileError::Io`].
    pub fn finish(mut self) -> Result<(), BlockFileError> {
        self.block(&[])?;
        self.file.flush()?;
        Ok(self.file.get_ref().sync_all()?)
    }

    fn block(&mut self, record: &[u8]) -> Result<(), BlockFileError> {
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        self.file.write_all(&head(length, self.blocks))?;
        self.file.write_all(record)?;
        self.blocks = self.blocks.wrapping_add(1);
        Ok(())
    }
}

fn head(length: u32, number: u32) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..8]);
    bytes[8..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads the records of a file. **What it gave counts only once it ended with `None`**; after an error it gives nothing more.
pub struct BlockFileReader<T> {
    file: BufReader<File>,
    blocks: u32,
    ended: bool,
    records: PhantomData<T>,
}

impl<T: Record> BlockFileReader<T> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`BlockFileError::Damaged`] for another file, [`BlockFileError::Io`].
    pub fn open(path: &Path) -> Result<BlockFileReader<T>, BlockFileError> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(cut_short)?;
        if magic != MAGIC {
            return Err(BlockFileError::Damaged("it is no file of records"));
        }
        Ok(BlockFileReader {
            file,
            blocks: 0,
            ended: false,
            records: PhantomData,
        })
    }

    fn next_record(&mut self) -> Result<Option<T>, BlockFileError> {
        let mut found = [0; HEAD_BYTES];
        self.file.read_exact(&mut found).map_err(cut_short)?;
        let [l0, l1, l2, l3, ..] = found;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if found != head(length, self.blocks) {
            return Err(BlockFileError::Damaged("a block is not the next"));
        }
        self.blocks = self.blocks.wrapping_add(1);
        if length == 0 {
            let more = self.file.read(&mut [0])?;
            return match more {
                0 => Ok(None),
                _ => Err(BlockFileError::Damaged("it goes on behind its end")),
            };
        }
        if u64::from(length) > RECORD_BYTES_MAX + 64 {
            return Err(BlockFileError::Damaged("a block is too long"));
        }
        // Grows with what is read, so that a damaged length reserves nothing.
        let mut bytes = Vec::new();
        let wanted = u64::from(length);
        let read = self.file.by_ref().take(wanted).read_to_end(&mut bytes)?;
        if read as u64 != wanted {
            return Err(BlockFileError::Damaged(CUT_SHORT));
        }
        Ok(Some(codec::decode(&bytes)?))
    }
}

impl<T: Record> Iterator for BlockFileReader<T> {
    type Item = Result<T, BlockFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

const CUT_SHORT: &str = "it is cut short";

/// The end of a file is damage here, other errors are the disk's.
fn cut_short(error: io::Error) -> BlockFileError {
    match error.kind() {
        ErrorKind::UnexpectedEof => BlockFileError::Damaged(CUT_SHORT),
        _ => BlockFileError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Word(String);

    impl Record for Word {
        const VERSION: u8 = 1;
        const NAME: &'static str = "word";
    }

    fn write(path: &Path, words: &[&str]) {
        let mut writer = BlockFileWriter::create(path).unwrap();
        for word in words {
            let record = codec::encode(&Word((*word).to_owned())).unwrap();
            writer.push(&record).unwrap();
        }
        writer.finish().unwrap();
    }

    fn read(path: &Path) -> Result<Vec<String>, BlockFileError> {
        let reader = BlockFileReader::<Word>::open(path)?;
        reader.map(|word| word.map(|word| word.0)).collect()
    }

    #[test]
    fn records_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words");
        for words in [&[][..], &["one"], &["one", "two", "three"]] {
            write(&path, words);
            assert_eq!(read(&path).unwrap(), words);
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words");
        write(&path, &["one", "two"]);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            std::fs::write(&path, &damaged).unwrap();
            assert!(read(&path).is_err(), "bit {at}");
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path).is_err(), "{length} bytes");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(read(&path).is_err());
    }
}
