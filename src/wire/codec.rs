//! gRPC codecs that move bytes: the bridge shares the scanner and the encoders of the native
//! protocol instead of building prost messages.
//!
//! [`RawCodec`] hands a request over undecoded and sends an encoded answer; [`RawReplyCodec`]
//! decodes the (small) request and sends encoded answers. The generated server of `EventService`
//! names them. Framing and size limits stay tonic's.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes in, bytes out.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawCodec;

/// A prost message in, bytes out.
#[derive(Clone, Copy, Debug)]
pub struct RawReplyCodec<T>(PhantomData<T>);

impl<T> Default for RawReplyCodec<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawEncoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder
    }
}

impl<T: Message + Default + Send + 'static> Codec for RawReplyCodec<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = RawEncoder;
    type Decoder = MessageDecoder<T>;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> MessageDecoder<T> {
        MessageDecoder(PhantomData)
    }
}

/// Sends an encoded message as it is.
#[derive(Clone, Copy, Debug)]
pub struct RawEncoder;

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

/// Hands a message over as it came, without copying.
#[derive(Clone, Copy, Debug)]
pub struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// Decodes with prost; what can't be parsed is `INVALID_ARGUMENT`.
#[derive(Clone, Copy, Debug)]
pub struct MessageDecoder<T>(PhantomData<T>);

impl<T: Message + Default> Decoder for MessageDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let message = T::decode(src).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Some(message))
    }
}
