//! What is on disk.

use super::super::{Cache, Purge, RangeKey};
use super::world::*;
use crate::observe::metrics::DiskTrouble;
use crate::protocol::names;
use std::fs;
use std::path::{Path, PathBuf};

/// The files with answers.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let groups = entries(&dir.join("streams"));
    let folders = groups.iter().flat_map(|group| entries(group));
    folders.flat_map(|folder| entries(&folder)).collect()
}

async fn put(world: &World, key: RangeKey<'_>, answer: Answer) {
    world.will_answer(answer);
    let cached = world.get_key(key).await;
    text(cached.unwrap()).await.unwrap();
    world.settle().await;
}

fn trouble(world: &World, trouble: DiskTrouble) -> u64 {
    world.metrics.cache.disk_trouble(trouble).get()
}

#[tokio::test]
async fn answers_are_there_after_a_restart() {
    let mut world = World::new();
    let large = "large ".repeat(100_000);
    put(&world, key("small"), Answer::whole(FIXED, "body")).await;
    put(&world, key("large"), Answer::whole(FIXED, large.clone())).await;
    put(&world, key("empty"), Answer::whole(FIXED, "")).await;
    world.restart().await;
    world.clock.advance_ms(2000);
    let cached = world.get("small").await.unwrap();
    assert_eq!(cached.age_seconds, Some(2));
    assert_eq!(status(&cached), "hit; detail=disk");
    assert_eq!(text(cached).await.unwrap(), "body");
    assert_eq!(world.read("small").await, ("body".into(), "hit".into()));
    assert_eq!(world.read("large").await.0, large);
    assert_eq!(world.read("empty").await.0, "");
    assert_eq!(world.requests(), 3);
}

#[tokio::test]
async fn a_stale_file_is_asked_about() {
    let mut world = World::new();
    let tagged = Answer::whole(FIXED, "body").with(http::header::ETAG, "\"tag\"");
    put(&world, key("r"), tagged).await;
    world.restart().await;
    world.clock.advance_ms(60_000);
    let unchanged = Answer::empty(304).with(http::header::CACHE_CONTROL, FIXED);
    world.will_answer(unchanged);
    let revalidated = "fwd=stale; fwd-status=304";
    assert_eq!(world.read("r").await, ("body".into(), revalidated.into()));
}

#[tokio::test]
async fn what_leaves_the_memory_is_still_on_disk() {
    let world = World::with(|config| config.cache.memory_bytes = 64 << 10);
    let body = |number: usize| number.to_string().repeat(5000);
    let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    for (number, name) in names.iter().enumerate() {
        put(&world, key(name), Answer::whole(FIXED, body(number))).await;
        world.clock.advance_ms(1000);
        // The first is used all the time.
        assert!(world.cache.hit(&ask(key("0"))).is_some(), "{number}");
    }
    assert!(world.cache.index.memory.bytes() <= 64 << 10);
    assert_eq!(world.read("1").await, (body(1), "hit; detail=disk".into()));
    assert_eq!(world.read("9").await, (body(9), "hit".into()));
    assert_eq!(world.requests(), 10);
}

#[tokio::test]
async fn the_disk_is_bounded_and_what_was_used_stays() {
    let mut world = World::with(|config| {
        config.cache.memory_bytes = 0;
        config.cache.disk_bytes = 64 << 10;
    });
    for number in 0..30 {
        let name = number.to_string();
        put(
            &world,
            of_stream(&name, "r"),
            Answer::whole(FIXED, name.clone()),
        )
        .await;
        let first = world.get_key(of_stream("0", "r")).await;
        assert_eq!(status(&first.unwrap()), "hit; detail=disk");
    }
    assert_eq!(files(world.dir.path()).len(), 16);
    assert_eq!(world.cache.index.disk.bytes(), 64 << 10);
    // A smaller bound holds as well.
    world.config.cache.disk_bytes = 16 << 10;
    world.restart().await;
    assert_eq!(files(world.dir.path()).len(), 4);
    let first = world.get_key(of_stream("0", "r")).await;
    assert_eq!(status(&first.unwrap()), "hit; detail=disk");
}

#[tokio::test]
async fn what_is_larger_than_a_tier_drives_nothing_out_of_it() {
    let world = World::with(|config| {
        config.cache.memory_bytes = 32 << 10;
        config.cache.disk_bytes = 64 << 10;
    });
    let body = |bytes| Answer::whole(FIXED, "x".repeat(bytes));
    put(&world, key("small"), body(10)).await;
    put(&world, key("for the disk"), body(40 << 10)).await;
    put(&world, key("for nothing"), body(80 << 10)).await;
    assert_eq!(world.read("small").await.1, "hit");
    assert_eq!(world.read("for the disk").await.1, "hit; detail=disk");
    put(&world, key("for nothing"), body(80 << 10)).await;
    assert_eq!(files(world.dir.path()).len(), 2);
}

#[tokio::test]
async fn the_number_of_files_is_bounded() {
    let world = World::with(|config| config.cache.disk_entries_max = 3);
    for number in 0..10 {
        let name = number.to_string();
        put(&world, key(&name), Answer::whole(FIXED, name.clone())).await;
    }
    assert_eq!(files(world.dir.path()).len(), 3);
}

#[tokio::test]
async fn a_damaged_file_is_removed_and_its_answer_fetched_again() {
    let mut world = World::new();
    put(&world, key("r"), Answer::whole(FIXED, "body")).await;
    let [path] = files(world.dir.path()).try_into().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    world.restart().await;
    world.will_answer(Answer::whole(FIXED, "body"));
    assert_eq!(world.read("r").await.1, "fwd=uri-miss; stored");
    assert_eq!(trouble(&world, DiskTrouble::Damaged), 1);
    world.restart().await;
    assert_eq!(
        world.read("r").await,
        ("body".into(), "hit; detail=disk".into())
    );
}

#[tokio::test]
async fn a_file_that_is_none_is_removed_at_the_start() {
    let mut world = World::new();
    for name in ["cut", "moved", "good"] {
        put(&world, of_stream(name, "r"), Answer::whole(FIXED, name)).await;
    }
    let path = |name| {
        let disk = world.cache.disk.as_ref().unwrap();
        disk.path(of_stream(name, "r").place())
    };
    let bytes = fs::read(path("cut")).unwrap();
    fs::write(path("cut"), &bytes[..bytes.len() - 1]).unwrap();
    fs::write(path("moved"), fs::read(path("good")).unwrap()).unwrap();
    fs::write(path("good").with_file_name("junk"), "junk").unwrap();
    fs::write(world.dir.path().join("temporary/0-1"), "half").unwrap();
    fs::create_dir(world.dir.path().join("purged/0-2")).unwrap();
    fs::write(world.dir.path().join("purged/0-2/file"), "old").unwrap();
    let good = path("good");
    world.restart().await;
    assert_eq!(files(world.dir.path()), [good]);
    assert_eq!(trouble(&world, DiskTrouble::Damaged), 3);
    for part in ["temporary", "purged"] {
        let left = fs::read_dir(world.dir.path().join(part)).unwrap();
        assert_eq!(left.count(), 0, "{part}");
    }
}

#[tokio::test]
async fn a_missing_file_is_no_trouble() {
    let world = World::with(|config| config.cache.memory_bytes = 0);
    put(&world, key("r"), Answer::whole(FIXED, "body")).await;
    for path in files(world.dir.path()) {
        fs::remove_file(path).unwrap();
    }
    put(&world, key("r"), Answer::whole(FIXED, "body")).await;
    assert_eq!(world.read("r").await.1, "hit; detail=disk");
    for of in [DiskTrouble::Read, DiskTrouble::Write, DiskTrouble::Damaged] {
        assert_eq!(trouble(&world, of), 0, "{of:?}");
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_done_without() {
    let world = World::new();
    let temporary = world.dir.path().join("temporary");
    fs::remove_dir(&temporary).unwrap();
    put(&world, key("one"), Answer::whole(FIXED, "body")).await;
    assert_eq!(world.read("one").await, ("body".into(), "hit".into()));
    // It is left alone for a while.
    put(&world, key("two"), Answer::whole(FIXED, "body")).await;
    assert_eq!(trouble(&world, DiskTrouble::Write), 1);
    fs::create_dir(&temporary).unwrap();
    world.clock.advance_ms(10_000);
    put(&world, key("three"), Answer::whole(FIXED, "body")).await;
    assert_eq!(trouble(&world, DiskTrouble::Write), 1);
    assert_eq!(files(world.dir.path()).len(), 1);
}

#[tokio::test]
async fn a_directory_is_one_process_own() {
    let world = World::new();
    let other = Cache::open(&world.config, world.clock.clone(), world.metrics.clone());
    assert!(other.err().unwrap().to_string().contains("cannot be used"));
}

#[tokio::test]
async fn purges_forget_in_memory_and_on_disk() {
    let mut world = World::new();
    let tagged = |tag: &str| Answer::whole(FIXED, "body").with(names::CACHE_TAG, tag);
    let stream = |path: &str| Purge::Stream {
        origin: "origin".into(),
        path: path.into(),
    };
    for restart in [false, true] {
        for path in ["a", "b", "c", "d"] {
            let tags = format!("all stream:{path}");
            put(&world, of_stream(path, "one"), tagged(&tags)).await;
            put(&world, of_stream(path, "two"), tagged(&tags)).await;
        }
        for (purge, left) in [
            (stream("a"), 6),
            (stream("a"), 6),
            (Purge::Path("b".into()), 4),
            (Purge::Tag("stream:c".into()), 2),
            (Purge::Tag("stream:none".into()), 2),
            (Purge::Tag("all".into()), 0),
        ] {
            if restart {
                world.restart().await;
            }
            let before = files(world.dir.path()).len();
            let answers = world.cache.purge(purge).await.unwrap();
            assert_eq!(answers as usize, before - left);
            assert_eq!(files(world.dir.path()).len(), left);
            assert_eq!(world.cache.index.disk.entries(), left);
        }
        assert_eq!(world.cache.index.memory.entries(), 0);
        for path in ["a", "b", "c", "d"] {
            assert!(world.cache.hit(&ask(of_stream(path, "one"))).is_none());
        }
    }
}

#[tokio::test]
async fn without_a_disk_the_memory_serves() {
    let world = World::with(|config| config.cache.disk_bytes = 0);
    put(&world, key("r"), Answer::whole(FIXED, "body")).await;
    assert_eq!(world.read("r").await, ("body".into(), "hit".into()));
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 0);
    assert_eq!(world.cache.purge(Purge::Path("a".into())).await.unwrap(), 1);
    assert!(world.cache.hit(&ask(key("r"))).is_none());
}

#[tokio::test]
async fn the_figures_add_up() {
    let world = World::new();
    put(&world, key("r"), Answer::whole(FIXED, "body")).await;
    world.read("r").await;
    let text = world.metrics.render().unwrap();
    for line in [
        r#"headwater_cache_answers_total{status="hit"} 1"#,
        r#"headwater_cache_answers_total{status="miss"} 1"#,
        r#"headwater_cache_fills_total{result="kept"} 1"#,
        r#"headwater_cache_entries{tier="memory"} 1"#,
        r#"headwater_cache_entries{tier="disk"} 1"#,
        r#"headwater_cache_bytes{tier="disk"} 4096"#,
        r#"headwater_cache_evictions_total{tier="disk"} 0"#,
        "headwater_cache_held_bytes 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
