//! The transport's own frames: signs of life, goodbye, and "no reply will come".

use bytes::Bytes;

use crate::transport::frame::{Frame, flags};

/// A frame with [`flags::CONTROL`] set; the number is its `kind`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Control {
    /// "Are you there?" — sent by the opener of a connection that has read nothing for a while.
    Ping = 1,
    /// The answer to a ping.
    Pong = 2,
    /// This end closes on purpose.
    Goodbye = 3,
    /// The request with this sequence gets no reply.
    NoReply = 4,
}

impl Control {
    pub(crate) fn frame(self, sequence: u64) -> Frame {
        Frame {
            kind: self as u8,
            flags: flags::CONTROL,
            sequence,
            body: Bytes::new(),
            ..Frame::default()
        }
    }

    /// Which control frame this is; `None` for those of a later version, which are skipped.
    pub(crate) fn read(frame: &Frame) -> Option<Control> {
        match frame.kind {
            1 => Some(Control::Ping),
            2 => Some(Control::Pong),
            3 => Some(Control::Goodbye),
            4 => Some(Control::NoReply),
            _ => None,
        }
    }
}

/// Whether the frame is the transport's own.
pub(crate) fn is_control(frame: &Frame) -> bool {
    frame.flags & flags::CONTROL != 0
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use storage::codec::golden::Layout;

    use super::*;
    use crate::transport::frame::Header;

    #[test]
    fn golden_bytes_of_control_frames() {
        for (name, control) in [
            ("control-ping", Control::Ping),
            ("control-pong", Control::Pong),
            ("control-goodbye", Control::Goodbye),
            ("control-no-reply", Control::NoReply),
        ] {
            let mut written = BytesMut::new();
            control.frame(0x0102).put_header(&mut written);
            let layout = Layout {
                name,
                version: 1,
                written: &written,
            };
            let read = |bytes: Vec<u8>| {
                let header = Header::read(bytes.first_chunk()?, 0).ok()?;
                let frame = header.with_body(Bytes::new());
                assert!(is_control(&frame), "{name}");
                Some((Control::read(&frame)?, frame.sequence))
            };
            let value = (control, 0x0102);
            storage::golden_layout!("../../tests/goldens/wire.txt", layout, &value, read);
        }
    }
}
