//! Byte streams that may be gzipped, with a guard against archive bombs.
//!
//! Private to `import`. Gzip is recognised by its first bytes, not by a name. A stream that unpacks to more than 200 times what was read of
//! its file, beyond the first 256 MiB, is refused: real images hardly shrink, raw pixels and tar padding shrink by less.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::ImportError;

const FREE_BYTES: u64 = 256 << 20;
const RATIO_MAX: u64 = 200;

/// A file that is read as it is or through gzip.
pub(super) enum Stream {
    /// As it is; passing over bytes is a seek.
    Plain(BufReader<File>),
    /// Through gzip.
    Gzip(Box<Guarded>),
}

impl Stream {
    /// Opens `path` and looks whether it is gzipped.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let unreadable = |source| ImportError::unreadable(path, source);
        let mut file = File::open(path).map_err(unreadable)?;
        let mut magic = Vec::new();
        (&mut file).take(2).read_to_end(&mut magic).map_err(unreadable)?;
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        if magic == [0x1f, 0x8b] {
            let counted = Counted { file, byte_count: 0 };
            let decoder = MultiGzDecoder::new(counted);
            return Ok(Self::Gzip(Box::new(Guarded { decoder, byte_count: 0 })));
        }
        Ok(Self::Plain(BufReader::with_capacity(1 << 17, file)))
    }

    /// Passes over `byte_count` bytes; beyond the end of a plain file this is noticed only by the next read.
    pub(super) fn skip(&mut self, byte_count: u64) -> io::Result<()> {
        match self {
            Self::Plain(reader) => {
                let distance = i64::try_from(byte_count).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                reader.seek_relative(distance)
            }
            Self::Gzip(reader) => {
                let skipped = io::copy(&mut reader.take(byte_count), &mut io::sink())?;
                if skipped == byte_count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
        }
    }

    /// Reads up to `byte_count` bytes; fewer only at the end of the stream.
    pub(super) fn read_up_to(&mut self, byte_count: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(byte_count.min(1 << 20) as usize);
        self.take(byte_count).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
        }
    }
}

/// A gzip decoder that compares what it gives with what it takes.
pub(super) struct Guarded {
    decoder: MultiGzDecoder<Counted>,
    byte_count: u64,
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.byte_count += count as u64;
        let taken = self.decoder.get_ref().byte_count;
        if self.byte_count > FREE_BYTES && self.byte_count / RATIO_MAX > taken {
            let reason = format!("it unpacks to more than {RATIO_MAX} times its size, like an archive bomb");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(count)
    }
}

struct Counted {
    file: File,
    byte_count: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.byte_count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn plain_and_gzipped_files_read_and_skip_alike() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&content).unwrap();
        for bytes in [content.clone(), gzip.finish().unwrap()] {
            let path = folder.path().join("stream");
            std::fs::write(&path, bytes).unwrap();
            let mut stream = Stream::open(&path).unwrap();
            assert_eq!(stream.read_up_to(8).unwrap(), content[..8]);
            stream.skip(200_000).unwrap();
            assert_eq!(stream.read_up_to(1 << 30).unwrap(), content[200_008..]);
        }
    }

    #[test]
    fn a_gzip_bomb_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.gz");
        let mut gzip = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::best());
        for _ in 0..300 {
            gzip.write_all(&vec![0; 1 << 20]).unwrap();
        }
        gzip.finish().unwrap();
        let error = Stream::open(&path).unwrap().skip(300 << 20).unwrap_err();
        assert!(error.to_string().contains("archive bomb"), "{error}");
    }
}
