//! Messages as bytes: peers that are not made of our own types, and fields that these do not know.

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::Channel,
};

/// The path of delta streams.
pub(crate) const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Leaves messages as they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// An encoded field with a length (protobuf, "Length-Delimited Records").
pub(crate) fn field(number: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    assert!(number < 16 && value.len() < 1 << 14, "one byte of tag and two of length");
    let mut field = vec![number << 3 | 2];
    match u8::try_from(value.len()) {
        Ok(length) if length < 128 => field.push(length),
        _ => field.extend([(value.len() & 127) as u8 | 128, (value.len() >> 7) as u8]),
    }
    field.extend(value);
    field
}

/// A delta stream of bytes: where requests go, and responses.
pub(crate) async fn open(
    channel: &Channel,
    headers: MetadataMap,
    first: Vec<Vec<u8>>,
) -> Result<(mpsc::UnboundedSender<Bytes>, Streaming<Bytes>), Status> {
    let (sender, receiver) = mpsc::unbounded_channel();
    first.into_iter().for_each(|request| drop(sender.send(request.into())));
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    *request.metadata_mut() = headers;
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let response = client.streaming(request, DELTA.parse().expect("a path"), Raw).await?;
    Ok((sender, response.into_inner()))
}
