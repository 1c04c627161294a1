//! Many connections on one tunnel, and one connection with very many bytes: none delays or starves another, memory stays
//! bounded, and what has no room here finds it on another tunnel.

use std::{cell::Cell, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_local,
};
use underpass_net::tunnel::{Ended, Queued, Tunnel};

use underpass_net::testing::{Application, Mesh, call, converse, echo, pattern, run, until};

/// What a tunnel may hold for its socket: what streams may queue, one frame more, and the same once more encrypted.
const MOST_OUTPUT: usize = 2 * (256 << 10) + 2 * (64 << 10) + (32 << 10);

/// The most that was seen.
#[derive(Default)]
struct Most(Cell<(usize, usize)>);

impl Most {
    fn look(&self, tunnels: &[&Tunnel]) {
        for Queued { output, input } in tunnels.iter().map(|tunnel| tunnel.queued()) {
            let (o, i) = self.0.get();
            self.0.set((o.max(output), i.max(input)));
        }
    }
}

#[test]
fn bulk_to_a_slow_reader_in_bounded_memory() {
    const TOTAL: usize = 256 << 20;
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server) = mesh.pair().await;
        let application = Application::new("127.0.0.1:0").await;
        let mut call = call(&tunnel, application.address).await;
        let mut app = application.accept().await;
        // A prime number of bytes: every place in the stream looks different from the places of frames and records.
        let block = Rc::new(pattern(1_000_003));
        let sent = Rc::new(Cell::new(0));
        let sending = {
            let (block, sent) = (Rc::clone(&block), Rc::clone(&sent));
            spawn_local(async move {
                let mut left = TOTAL;
                while left > 0 {
                    let n = left.min(block.len());
                    call.app.write_all(&block[..n]).await.expect("sent");
                    left -= n;
                    sent.set(TOTAL - left);
                }
                call.app.shutdown().await.expect("ended");
                call.ended().await
            })
        };
        // The application does not read, until nothing moves any more: the stream's window is used up.
        until("the reader's end is full", || server.tunnels.borrow().first().is_some_and(|t| t.queued().input > 0))
            .await;
        let far = server.tunnel();
        let (before, quiet) = (Cell::new(0), Cell::new(0));
        until("the sender waits", || {
            let still = before.replace(sent.get()) == sent.get() && tunnel.queued().output == 0;
            quiet.set(if still { quiet.get() + 1 } else { 0 });
            quiet.get() > 50
        })
        .await;
        assert!(sent.get() < TOTAL && far.queued().input >= 200 << 10, "{:?}", far.queued());
        let (most, mut read) = (Most::default(), vec![0; 1_000_003]);
        most.look(&[&tunnel, &far]);
        let mut got = 0;
        while got < TOTAL {
            let n = block.len().min(TOTAL - got);
            app.read_exact(&mut read[..n]).await.expect("read");
            assert!(read[..n] == block[..n], "near byte {got}");
            got += n;
            most.look(&[&tunnel, &far]);
        }
        assert_eq!(app.read(&mut read).await.expect("the end"), 0);
        drop(app);
        assert_eq!(sending.await.expect("no panic"), Ended::Finished);
        let (output, input) = most.0.get();
        assert!(output <= MOST_OUTPUT, "{output} bytes waited for the socket");
        assert!(input <= 4 << 20, "{input} bytes waited for the application");
        until("nothing is left", || [&tunnel, &far].iter().all(|t| t.queued() == Queued { output: 0, input: 0 })).await;
    });
}

#[test]
fn streams_that_stand_still_do_not_stop_others() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server) = mesh.pair().await;
        let silent = Application::new("127.0.0.1:0").await;
        let (mut calls, mut apps) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            calls.push(call(&tunnel, silent.address).await);
            apps.push(silent.accept().await);
        }
        let block = pattern(64 << 10);
        let far = server.tunnel();
        until("all of them stand still", || {
            let full = calls.iter().all(|call| {
                while call.app.try_write(&block).is_ok() {}
                true
            });
            full && far.queued().input >= 50 * (200 << 10) && tunnel.queued().output == 0
        })
        .await;
        // Both ways, and more than any of them could send.
        let mut other = call(&tunnel, echo("127.0.0.1:0").await).await;
        let payload = pattern(8 << 20);
        assert!(converse(&mut other.app, &payload).await.expect("answered") == payload);
        assert_eq!(other.ended().await, Ended::Finished);
        assert!(far.queued().input >= 50 * (200 << 10), "and they still do");
        // They were not forgotten.
        drop(apps);
        for call in calls {
            assert!(matches!(call.ended().await, Ended::PeerReset(_)));
        }
        until("nothing is left", || far.queued().input + far.open_streams() == 0).await;
    });
}

#[test]
fn bulk_beside_small_talk() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server) = mesh.pair().await;
        let target = echo("127.0.0.1:0").await;
        let mut bulk = Vec::new();
        for _ in 0..8 {
            let mut call = call(&tunnel, target).await;
            bulk.push(spawn_local(async move {
                let payload = pattern(4 << 20);
                assert!(converse(&mut call.app, &payload).await.expect("answered") == payload);
            }));
        }
        let mut talk = call(&tunnel, target).await;
        let mut turns = 0;
        while !bulk.iter().all(tokio::task::JoinHandle::is_finished) {
            talk.app.write_u8(1).await.expect("sent");
            talk.app.read_u8().await.expect("heard");
            turns += 1;
        }
        for bulk in bulk {
            bulk.await.expect("whole");
        }
        assert!(turns >= 20, "{turns} turns beside 64 MiB");
    });
}

#[test]
fn tunnels_at_rest_hold_no_memory() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server) = mesh.pair().await;
        let target = echo("127.0.0.1:0").await;
        let mut calls = Vec::new();
        for _ in 0..10 {
            let mut call = call(&tunnel, target).await;
            let payload = pattern(100_000);
            let (mut from, mut to) = call.app.split();
            let mut answer = vec![0; payload.len()];
            let (sent, read) = tokio::join!(to.write_all(&payload), from.read_exact(&mut answer));
            sent.and(read.map(drop)).expect("back and forth");
            calls.push(call);
        }
        let far = server.tunnel();
        until("nothing is held", || [&tunnel, &far].iter().all(|t| t.held_bytes() == 0)).await;
    });
}
