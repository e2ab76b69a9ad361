//! `COPY` and `ADD` into real roots. Takes root, crun and busybox.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use builder::{BuildError, Event, NamedContext, StepStatus};
use common::{Lab, privileged};

/// Runs `find`-like commands over what the steps made, in one line each.
async fn check(lab: &Lab, steps: &str, show: &str, expected: &[&str]) {
    lab.build(&format!("{steps}\nRUN {show}"))
        .await
        .unwrap_or_else(|error| panic!("{steps}: {error}"));
    assert_eq!(lab.output(), expected, "{steps}");
}

fn lab() -> Lab {
    let lab = Lab::new();
    for (path, text) in [
        ("src/a.txt", "a"),
        ("src/b.md", "b"),
        ("src/sub/c.txt", "c"),
        ("one", "1"),
        ("top.txt", "t"),
    ] {
        lab.write(path, text);
    }
    symlink("src/a.txt", lab.context().join("link")).unwrap();
    symlink("../one", lab.context().join("src/inner")).unwrap();
    symlink("/etc/hostname", lab.context().join("outside")).unwrap();
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_destinations_follow_the_rules() {
    if !privileged() {
        return;
    }
    let lab = lab();
    for (steps, show, expected) in [
        ("COPY one /f", "cat /f", &["1"][..]),
        ("COPY one /d/", "ls /d", &["one"]),
        ("WORKDIR /w\nCOPY one x/y", "ls /w/x", &["y"]),
        ("COPY one /tmp", "ls /tmp", &["one"]),
        ("COPY src /s", "ls /s", &["a.txt", "b.md", "inner", "sub"]),
        (
            "COPY src /tmp/",
            "ls /tmp",
            &["a.txt", "b.md", "inner", "sub"],
        ),
        ("COPY src/sub one /m/", "ls /m", &["c.txt", "one"]),
        ("COPY src/*.txt *.txt /g/", "ls /g", &["a.txt", "top.txt"]),
        ("COPY s?c/[a-b].* /h/", "ls /h", &["a.txt", "b.md"]),
        ("COPY src /s", "readlink /s/inner", &["../one"]),
        ("COPY link /l", "cat /l; test ! -L /l", &["a"]),
        (
            "COPY . /all/",
            "ls /all",
            &["link", "one", "outside", "rootfs", "src", "top.txt"],
        ),
        (
            "COPY --exclude=**/*.txt src /e",
            "ls /e",
            &["b.md", "inner", "sub"],
        ),
        (
            "COPY --parents src/sub/c.txt src/a.txt /p/",
            "ls /p/src /p/src/sub",
            &["/p/src:", "a.txt", "sub", "", "/p/src/sub:", "c.txt"],
        ),
        (
            "RUN ln -s /real /dangling\nCOPY one /dangling/x/",
            "cat /real/x/one",
            &["1"],
        ),
        (
            "RUN echo old > /o && ln -s /o /o2\nCOPY one /o2",
            "cat /o /o2",
            &["old", "1"],
        ),
        (
            "COPY [\"one\", \"/with space/f\"]",
            "ls '/with space'",
            &["f"],
        ),
    ] {
        check(&lab, steps, show, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_owners_and_modes() {
    if !privileged() {
        return;
    }
    let lab = lab();
    for (steps, expected) in [
        ("COPY one /x", "0 0 644"),
        ("COPY --chown=web:extra one /x", "33 50 644"),
        ("COPY --chown=5 one /x", "5 5 644"),
        ("COPY --chmod=4711 one /x", "0 0 4711"),
        ("COPY --chown=web --chmod=700 src /x", "33 34 755"),
        (
            "FROM base AS o\nRUN touch /x && chown 3:4 /x && chmod 600 /x\nFROM base\nCOPY --from=o /x /x",
            "3 4 600",
        ),
        (
            "FROM base AS o\nRUN touch /x && chown 3:4 /x\nFROM base\nCOPY --from=o --chown=9 /x /x",
            "9 9 644",
        ),
    ] {
        check(&lab, steps, "stat -c '%u %g %a' /x", &[expected]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_sources_that_are_not_there() {
    if !privileged() {
        return;
    }
    let lab = lab();
    lab.write(".dockerignore", "*.md\nsecret\n");
    lab.write("secret", "x");
    lab.write("x.md", "x");
    for (steps, expected) in [
        ("COPY none /", "there is no `none` to copy"),
        ("COPY *.none /", "there is no `*.none` to copy"),
        (
            "COPY x.md /",
            "`x.md` is left out by the ignore file or `--exclude`",
        ),
        (
            "COPY ../../etc/passwd /",
            "there is no `../../etc/passwd` to copy",
        ),
        ("COPY outside /", "there is no `outside` to copy"),
        (
            "COPY one /tmp/x\nCOPY src /tmp/x",
            "`/tmp/x` is not a directory",
        ),
        (
            "RUN mkdir -p /d/one\nCOPY one /d/",
            "`/d/one` is a directory, which a file cannot replace",
        ),
        (
            "COPY --chown=nobody one /",
            "there is no user `nobody` in the image's `/etc/passwd`",
        ),
    ] {
        match lab.build(steps).await.unwrap_err() {
            BuildError::Step {
                status: StepStatus::Refused(reason),
                ..
            } => assert_eq!(reason, expected, "{steps}"),
            other => panic!("{steps}: {other:?}"),
        }
    }
    check(
        &lab,
        "COPY . /all",
        "ls /all",
        &["link", "one", "outside", "rootfs", "src", "top.txt"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_archives_are_unpacked_by_add_alone() {
    if !privileged() {
        return;
    }
    let lab = lab();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o600);
    tar.append_data(&mut header, "in/side", &b"hi"[..]).unwrap();
    let plain = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let gzip = gzip.finish().unwrap();
    for (name, bytes) in [
        ("a.tar", &plain[..]),
        ("a.tgz", &gzip),
        ("a.gz", &gzip[..20]),
        ("a.xz", include_bytes!("fixtures/side.tar.xz")),
        ("a.bz2", include_bytes!("fixtures/side.tar.bz2")),
        ("broken.xz", b"\xfd7zXZ\0rest"),
    ] {
        fs::write(lab.context().join(name), bytes).unwrap();
    }
    check(
        &lab,
        "ADD a.tar /t\nADD a.tgz /z/\nADD a.xz /x\nADD a.bz2 /b",
        "cat /t/in/side /z/in/side /x/in/side /b/in/side; ls /t",
        &["hihihihiin"],
    )
    .await;
    check(
        &lab,
        "ADD a.gz broken.xz one /p/\nCOPY a.tar /q\nADD --unpack=false a.tgz /r",
        "ls /p; test -f /q; test -f /r",
        &["a.gz", "broken.xz", "one"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_parents_are_kept_from_the_mark_on() {
    if !privileged() {
        return;
    }
    let lab = lab();
    lab.write("p/q/r/deep", "deep");
    check(
        &lab,
        "COPY --parents p/q/r/deep /a/\nCOPY --parents p/./q/*/deep /b/",
        "cat /a/p/q/r/deep /b/q/r/deep",
        &["deepdeep"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_content_decides_about_the_cache() {
    if !privileged() {
        return;
    }
    let lab = lab();
    let step = "COPY src /s";
    let first = lab.build(step).await.unwrap();
    let file = fs::File::options()
        .write(true)
        .open(lab.context().join("src/a.txt"))
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(lab.build(step).await.unwrap().digest(), first.digest());
    assert_eq!(lab.cached(), [2, 3], "a time is not content");
    lab.write("src/a.txt", "changed");
    assert_ne!(lab.build(step).await.unwrap().digest(), first.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_named_contexts_hide_stages_and_images() {
    if !privileged() {
        return;
    }
    let lab = lab();
    let mut request = lab.request("COPY --from=files /f /f\nRUN cat /f");
    let files = lab.dir.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("f"), "named").unwrap();
    request
        .named_contexts
        .insert("files".into(), NamedContext::Dir(files));
    lab.build_request(request.clone(), Default::default())
        .await
        .unwrap();
    assert_eq!(lab.output(), ["named"]);
    request.containerfile = "FROM files".into();
    let error = lab
        .build_request(request, Default::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("context `files` is a directory, which no stage can start from"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_unused_stages_are_not_built() {
    if !privileged() {
        return;
    }
    let lab = lab();
    let mut request =
        lab.request("FROM base AS unused\nRUN exit 1\nFROM base AS wanted\nRUN echo wanted");
    lab.build_request(request.clone(), Default::default())
        .await
        .unwrap();
    let steps: Vec<_> = lab
        .events
        .lock()
        .unwrap()
        .iter()
        .filter(|event| matches!(event, Event::StepStarted { .. }))
        .cloned()
        .collect();
    assert_eq!(steps.len(), 4);
    request.target = Some("unused".into());
    assert!(
        lab.build_request(request.clone(), Default::default())
            .await
            .is_err()
    );
    request.target = Some("nope".into());
    let error = lab
        .build_request(request, Default::default())
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "Containerfile:5:1: there is no stage `nope` to build (stages: base, unused, wanted)"
    );
}
