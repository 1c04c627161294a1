//! Many connections on one tunnel, and one connection with very many bytes: none delays or starves another, memory stays
//! bounded, and what has no room here finds it on another tunnel.

use std::{cell::Cell, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_local,
};
use underpass_identity::testing::now;
use underpass_net::{
    pool::Pool,
    tunnel::{Ended, Queued, Tunnel, TunnelEnd},
};

use crate::support::{Application, Mesh, call, converse, echo, pattern, run, until};

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
        // Nobody reads, until nothing moves any more: the stream's window is used up.
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
fn more_streams_than_a_tunnel_takes_open_another() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut calls = Vec::new();
        for round in 0..150_u8 {
            let mut call = mesh.pooled(&pool, server.address, target).await;
            call.app.write_u8(round).await.expect("sent");
            assert_eq!(call.app.read_u8().await.expect("heard"), round);
            calls.push(call);
        }
        assert_eq!(pool.len(), 2);
        let open: usize = server.tunnels.borrow().iter().map(Tunnel::open_streams).sum();
        assert_eq!((open, server.tunnels.borrow().len()), (150, 2));
        // Room that comes free is used again.
        for mut call in calls.drain(..60) {
            assert_eq!(converse(&mut call.app, b"").await.expect("ended"), b"");
        }
        for _ in 0..60 {
            calls.push(mesh.pooled(&pool, server.address, target).await);
        }
        for call in &mut calls {
            assert_eq!(converse(&mut call.app, b"bye").await.expect("answered"), b"bye");
        }
        assert_eq!((pool.len(), server.tunnels.borrow().len()), (2, 2));
    });
}

#[test]
fn the_next_tunnel_is_there_before_it_is_needed() {
    // With room for four a tunnel has no eighth part that could be left.
    for (cap, begun_at) in [(16, 15), (4, 5)] {
        run(async {
            let mut mesh = Mesh::new();
            mesh.settings.hbone.max_open_streams = cap;
            let mesh = Rc::new(mesh);
            let server = mesh.serve_applications().await;
            let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
            let mut calls = Vec::new();
            for n in 1..=cap {
                let mut call = mesh.pooled(&pool, server.address, target).await;
                call.app.write_u8(7).await.expect("sent");
                assert_eq!(call.app.read_u8().await.expect("heard"), 7);
                calls.push(call);
                assert_eq!(pool.len(), if n < begun_at { 1 } else { 2 }, "at {n} of {cap}");
            }
            if begun_at <= cap {
                let next = || server.tunnels.borrow().get(1).cloned();
                until("the next one is ready", || next().is_some_and(|tunnel| tunnel.peer().is_some())).await;
                assert_eq!(next().expect("there").open_streams(), 0, "and nobody needs it yet");
            }
            let mut call = mesh.pooled(&pool, server.address, target).await;
            assert_eq!(converse(&mut call.app, b"more").await.expect("answered"), b"more");
            assert_eq!(pool.len(), 2, "no third");
        });
    }
}

#[test]
fn a_peer_that_takes_one_stream_gets_one_per_tunnel() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.hbone.max_accepted_streams = 1;
        let mesh = Rc::new(mesh);
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        // All at once: the first tunnel gets them before it knows. What it refuses is sent again elsewhere, once.
        let mut calls = Vec::new();
        for _ in 0..8 {
            let mut call = mesh.pooled(&pool, server.address, target).await;
            call.app.write_all(&pattern(50_000)).await.expect("sent early");
            calls.push(call);
        }
        for call in &mut calls {
            let mut answer = vec![0; 50_000];
            call.app.read_exact(&mut answer).await.expect("answered");
            assert!(answer == pattern(50_000), "neither twice nor cut");
        }
        assert_eq!(pool.len(), 8);
        // By now it is known: nothing is refused any more.
        for _ in 0..8 {
            let mut call = mesh.pooled(&pool, server.address, target).await;
            assert_eq!(converse(&mut call.app, b"more").await.expect("answered"), b"more");
            assert_eq!(call.ended().await, Ended::Finished);
        }
        for call in &mut calls {
            assert_eq!(converse(&mut call.app, b"bye").await.expect("answered"), b"bye");
        }
    });
}

#[test]
fn a_peer_that_takes_no_stream_is_not_asked_again_and_again() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.hbone.max_accepted_streams = 0;
        let mesh = Rc::new(mesh);
        let server = mesh.serve(|_| panic!("nothing is accepted")).await;
        let pool = Rc::<Pool>::default();
        let ended = spawn_local({
            let (mesh, pool) = (Rc::clone(&mesh), Rc::clone(&pool));
            async move { mesh.pooled(&pool, server.address, "10.0.0.1:80".parse().expect("address")).await.ended.await }
        });
        // The harness cannot open it again, and says so by a panic.
        assert!(ended.await.expect("no panic").is_err());
        assert_eq!((pool.len(), pool.with_room(now())), (1, 0));
    });
}

#[test]
fn a_server_that_leaves_finishes_what_it_began() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut old = mesh.pooled(&pool, server.address, target).await;
        old.app.write_u8(1).await.expect("sent");
        assert_eq!(old.app.read_u8().await.expect("heard"), 1);
        let first = server.tunnel();
        first.drain();
        // On its way while the server says that it goes: nothing of it is lost.
        let mut calls = Vec::new();
        for _ in 0..20 {
            calls.push(mesh.pooled(&pool, server.address, target).await);
        }
        for call in &mut calls {
            assert_eq!(converse(&mut call.app, b"hello").await.expect("answered"), b"hello");
        }
        until("the client knows", || pool.len() == 2).await;
        assert!(!first.has_ended());
        assert_eq!(converse(&mut old.app, b"bye").await.expect("answered"), b"bye");
        assert_eq!(old.ended().await, Ended::Finished);
        assert_eq!(server.ended().await, TunnelEnd::Closed);
        until("the pool has one", || {
            pool.sweep();
            pool.len() == 1
        })
        .await;
        // The client's turn.
        pool.drain();
        assert_eq!(server.ended().await, TunnelEnd::Closed);
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
