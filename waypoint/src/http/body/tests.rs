//! The body of a client's request, as its tries and its times see it.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::{client::conn::http1 as client, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::mpsc,
    task::{LocalSet, spawn_local, yield_now},
};

use super::*;

/// What a client sends by and by, and the body that a server reads of it.
async fn upload() -> (mpsc::UnboundedSender<&'static str>, Incoming) {
    let (of_client, of_server) = tokio::io::duplex(1 << 10);
    let (sender, mut chunks) = mpsc::unbounded_channel::<&'static str>();
    let chunks = poll_fn_stream(move |cx| chunks.poll_recv(cx));
    spawn_local(async move {
        let (mut sender, connection) = client::handshake(TokioIo::new(of_client)).await.expect("begun");
        spawn_local(connection);
        let request = Request::post("/").header("host", "a").body(StreamBody::new(chunks)).expect("a request");
        drop(sender.send_request(request).await); // never answered
    });
    let (bodies, mut body) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        bodies.send(request.into_body()).expect("is waited for");
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    spawn_local(async move { server::Builder::new().serve_connection(TokioIo::new(of_server), service).await });
    (sender, body.recv().await.expect("a request"))
}

fn poll_fn_stream(
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<&'static str>>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures_util::stream::poll_fn(move |cx| next(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk.into())))))
}

/// Waits until it is so.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        yield_now().await;
    }
}

#[test]
fn a_client_is_held_up_only_while_no_try_reads() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let (chunks, incoming) = upload().await;
        let recorded = Recorded::new(incoming, 4);
        let ahead = || {
            let recorded = Rc::clone(&recorded);
            spawn_local(async move { recorded.read_ahead().await })
        };
        let first = ahead();
        chunks.send("abc").expect("read");
        until(|| recorded.state.borrow().kept_bytes == 3).await;
        assert!(!first.is_finished(), "more may come");
        chunks.send("def").expect("read");
        assert!(matches!(first.await.expect("ran"), Ok(Ahead::HeldUp)));
        let read = spawn_local({
            let recorded = Rc::clone(&recorded);
            async move { recorded.is_read().await }
        });
        yield_now().await;
        assert!(!read.is_finished());
        let whole = spawn_local(RequestBody::Try(recorded.next()).collect());
        read.await.expect("ran");
        let second = ahead();
        chunks.send("ghi").expect("read");
        until(|| recorded.state.borrow().ahead.is_none()).await;
        yield_now().await;
        assert!(!second.is_finished(), "a try reads it, and more may come");
        drop(chunks);
        assert_eq!(whole.await.expect("ran").expect("whole").to_bytes(), "abcdefghi");
        assert!(matches!(second.await.expect("ran"), Ok(Ahead::Ended)));
    });
}
