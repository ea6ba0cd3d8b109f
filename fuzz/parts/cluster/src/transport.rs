//! What a peer's bytes are, before anybody knows what they mean.

use bytes::{Bytes, BytesMut};

pub mod frame;
mod hello;

use frame::{Frame, HEADER_BYTES, Header};

/// The header in these bytes, its body's length, and its bytes as they would be written again.
pub fn header(bytes: &[u8; HEADER_BYTES], body_max: usize) -> Option<(usize, Vec<u8>)> {
    let header = Header::read(bytes, body_max).ok()?;
    let body = Bytes::from(vec![0; header.length]);
    let frame: Frame = header.with_body(body);
    let mut out = BytesMut::new();
    frame.put_header(&mut out);
    Some((header.length, out.to_vec()))
}

/// A hello in these bytes, as it would be written again, without its length; later fields are skipped.
pub fn hello(bytes: &[u8]) -> Option<Vec<u8>> {
    let hello = hello::Hello::decode(bytes).ok()?;
    Some(hello.encode().get(2..).unwrap_or_default().to_vec())
}
