//! Executing steps for real: takes root, crun and busybox.
#![allow(clippy::unwrap_used)]

mod common;

use builder::{BuildError, StepStatus};
use common::{Lab, privileged};

#[tokio::test(flavor = "multi_thread")]
async fn privileged_output_and_files_of_a_command_are_kept() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let image = lab
        .build(
            "ENV A=1\nWORKDIR /made\nRUN echo $A; pwd; hostname; echo hi > f; echo to-stderr >&2",
        )
        .await
        .unwrap();
    assert_eq!(lab.output(), ["1", "/made", "build", "to-stderr"]);
    assert_eq!(lab.last_layer(&image), ["dir made/", "file made/f"]);
    let root = image.root(&|_| {}).await.unwrap();
    assert_eq!(root.read("/made/f", 10).unwrap().unwrap(), b"hi\n");
    assert_eq!(image.config().config.working_dir, "/made");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_failure_has_status_line_and_tail() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let error = lab.build("\nRUN seq 1 30; \\\n  exit 7").await.unwrap_err();
    match &error {
        BuildError::Step {
            step,
            steps,
            line,
            status,
            tail,
            ..
        } => {
            assert_eq!((*step, *steps, *line), (3, 3, 4));
            assert_eq!(*status, StepStatus::Exit(7));
            assert_eq!(tail.len(), 20);
            assert_eq!(tail.last().unwrap(), "30");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        error.to_string(),
        "step 3 of 3, line 4: `RUN seq 1 30;   exit 7` exited with status 7"
    );
    assert!(!error.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_signals_and_missing_programs_are_told_apart() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for (step, expected) in [
        ("RUN sh -c 'kill -9 $$'; exit $?", StepStatus::Signal(9)),
        (
            "RUN [\"/bin/nope\"]",
            StepStatus::Refused(
                "executable file `/bin/nope` not found in $PATH: No such file or directory".into(),
            ),
        ),
        (
            "USER nobody\nRUN true",
            StepStatus::Refused("there is no user `nobody` in the image's `/etc/passwd`".into()),
        ),
        (
            "RUN --mount=type=bind,source=none,target=/x true",
            StepStatus::Refused("there is no `none` to copy".into()),
        ),
    ] {
        match lab.build(step).await.unwrap_err() {
            BuildError::Step { status, .. } => assert_eq!(status, expected, "{step}"),
            other => panic!("{step}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_command_that_changes_nothing_leaves_nothing() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    // The root has no /proc, /sys, /dev, /etc/resolv.conf and /etc/hosts, which the command nevertheless has.
    let before = lab.build("").await.unwrap();
    let image = lab.build("RUN test -d /proc/self && test -e /dev/null && wc -l /etc/hosts && touch /tmp/x && rm /tmp/x").await.unwrap();
    assert_eq!(lab.output(), ["2 /etc/hosts"]);
    assert_eq!(lab.last_layer(&image), lab.last_layer(&before));
    let history = &image.config().history;
    assert!(history.last().unwrap().empty_layer);
    assert_eq!(
        history.iter().filter(|one| !one.empty_layer).count(),
        image.config().rootfs.diff_ids.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_hold_what_changed() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let steps = "RUN mkdir -p /d/sub /gone && touch /d/sub/f /d/keep /gone/x\n\
                 RUN rm -r /gone /d/sub && mkdir /d/sub && touch /d/sub/new && rm /d/keep && ln /d/sub/new /d/twin \
                 && mknod /pipe p && ln -s /d /link && chmod 700 /tmp";
    let image = lab.build(steps).await.unwrap();
    assert_eq!(
        lab.last_layer(&image),
        [
            "dir d/",
            "file d/.wh.keep",
            "dir d/sub/",
            "file d/sub/.wh..wh..opq",
            "file d/sub/new",
            "hardlink d/twin -> d/sub/new",
            "file .wh.gone",
            "symlink link -> /d",
            "fifo pipe",
            "dir tmp/",
        ]
    );
    let root = image.root(&|_| {}).await.unwrap();
    assert!(!root.exists("/gone").unwrap());
    assert!(!root.exists("/d/sub/f").unwrap());
    assert!(root.exists("/link/twin").unwrap());
    assert_eq!(
        root.read_link("/link").unwrap().unwrap().to_str(),
        Some("/d")
    );
    let names: Vec<_> = root
        .list("/link")
        .unwrap()
        .into_iter()
        .map(|(name, kind)| (name.into_string().unwrap(), kind))
        .collect();
    assert_eq!(
        names,
        [
            ("sub".to_string(), builder::Kind::Directory),
            ("twin".to_string(), builder::Kind::File)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_commands_run_as_the_user_of_the_image() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let image = lab
        .build("RUN chmod 777 /tmp\nUSER web\nWORKDIR /srv\nRUN id; echo $HOME; touch /tmp/mine; touch in-workdir\nUSER 7:8\nRUN id")
        .await
        .unwrap();
    assert_eq!(
        lab.output(),
        [
            "uid=33(web) gid=34(www) groups=50(extra)",
            "/srv",
            "uid=7 gid=8"
        ]
    );
    assert_eq!(image.config().config.user, "7:8");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_second_build_is_cached_and_any_build_is_the_same() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let steps = "ARG X=1\nRUN echo $X > /x; mkdir /dir; touch /dir/a\nWORKDIR /w\nCOPY rootfs/etc/passwd .\nRUN cat passwd > /y";
    let first = lab.build(steps).await.unwrap();
    assert_eq!(lab.cached(), Vec::<usize>::new());
    let second = lab.build(steps).await.unwrap();
    assert_eq!(lab.cached(), [2, 4, 5, 6, 7]);
    assert_eq!(second.digest(), first.digest());
    let mut request = lab.request(steps);
    request.no_cache = true;
    let third = lab
        .build_request(request.clone(), Default::default())
        .await
        .unwrap();
    assert_eq!(lab.cached(), Vec::<usize>::new());
    assert_eq!(
        third.digest(),
        first.digest(),
        "the time of the build is not in the image"
    );
    let other = Lab::new();
    assert_eq!(
        other.build(steps).await.unwrap().digest(),
        first.digest(),
        "nor is the machine"
    );

    request.no_cache = false;
    request.build_args.insert("X".into(), "2".into());
    let changed = lab
        .build_request(request.clone(), Default::default())
        .await
        .unwrap();
    assert_ne!(changed.digest(), first.digest());
    // What follows the changed step stands on another chain.
    assert_eq!(lab.cached(), [2]);
    request.created = Some("2020-01-01T00:00:00Z".parse().unwrap());
    let dated = lab
        .build_request(request, Default::default())
        .await
        .unwrap();
    assert_eq!(
        dated.config().created.as_deref(),
        Some("2020-01-01T00:00:00Z")
    );
    let times = lab.layer_entries(&dated, |archive| {
        archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().header().mtime().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(times, [1_577_836_800]);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_step_that_gives_the_same_again_keeps_what_follows_cached() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.build("RUN echo same > /x\nRUN echo after > /y")
        .await
        .unwrap();
    lab.build("RUN echo same > /x; true\nRUN echo after > /y")
        .await
        .unwrap();
    assert_eq!(lab.cached(), [2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mounts_of_all_kinds() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.write("data/f", "from context\n");
    let mut request = lab.request(
        "FROM base AS other\nRUN echo other > /o\nFROM base\n\
         RUN --mount=type=cache,target=/cache echo x >> /cache/log; cat /cache/log | wc -l\n\
         RUN --mount=type=bind,source=data,target=/ctx --mount=type=bind,from=other,source=/o,target=/o cat /ctx/f /o; ! touch /ctx/no\n\
         RUN --mount=type=bind,source=data,target=/ctx,rw touch /ctx/yes && ls /ctx\n\
         RUN --mount=type=tmpfs,target=/scratch touch /scratch/x && mount | wc -l > /dev/null\n\
         RUN --mount=type=secret,id=token cat /run/secrets/token; stat -c %a /run/secrets/token\n\
         RUN --mount=type=secret,id=token,env=TOKEN echo $TOKEN\n\
         RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent",
    );
    request.secrets.insert("token", "s3cret");
    request.no_cache = true;
    let image = lab
        .build_request(request.clone(), Default::default())
        .await
        .unwrap();
    let output = lab.output();
    assert_eq!(output[0], "1");
    assert_eq!(output[1..3], ["from context", "other"]);
    assert!(output[3].contains("Read-only file system"), "{output:?}");
    assert_eq!(output[4..], ["f", "yes", "s3cret400", "s3cret"]);
    // Nothing of any mount is in the image.
    let base = lab.build("").await.unwrap();
    assert_eq!(
        image.config().rootfs.diff_ids,
        base.config().rootfs.diff_ids
    );
    assert!(
        !String::from_utf8_lossy(&serde_json::to_vec(image.config()).unwrap()).contains("s3cret")
    );
    assert!(!lab.context().join("data/yes").exists());
    lab.build_request(request, Default::default())
        .await
        .unwrap();
    assert_eq!(lab.output()[0], "2", "a cache mount is kept");

    let error = lab
        .build("RUN --mount=type=secret,id=none,required=true true")
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("`--mount`: the build was given no secret `none`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_changed_bind_source_runs_the_step_again() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let step = "RUN --mount=type=bind,source=data,target=/ctx cat /ctx/f > /copy";
    lab.write("data/f", "1");
    lab.build(step).await.unwrap();
    lab.write("data/f", "2");
    let image = lab.build(step).await.unwrap();
    let root = image.root(&|_| {}).await.unwrap();
    assert_eq!(root.read("/copy", 9).unwrap().unwrap(), b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_heredocs_run_in_the_shell_or_by_themselves() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let steps = "ARG who=you\nRUN <<A\necho one $who\necho two\nA\nRUN <<B\n#!/bin/sh\necho $0\nB\nRUN cat <<C && cat <<D\nc $who\nC\nd\nD\n\
                 COPY <<E <<'F' /f/\ne $who\nE\nf $who\nF";
    let image = lab.build(steps).await.unwrap();
    assert_eq!(
        lab.output(),
        ["one you", "two", "/dev/containerfile-script", "c you", "d"]
    );
    let root = image.root(&|_| {}).await.unwrap();
    assert_eq!(root.read("/f/E", 99).unwrap().unwrap(), b"e you\n");
    assert_eq!(root.read("/f/F", 99).unwrap().unwrap(), b"f $who\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_step_without_network_has_only_loopback() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.build("RUN --network=none ls /sys/class/net")
        .await
        .unwrap();
    assert_eq!(lab.output(), ["lo"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_commands_are_confined() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let steps = "RUN unshare -U true || echo no user namespace; mount -t tmpfs x /tmp || echo no mount\n\
                 RUN ps; test -e /proc/1/root/work && echo leak; echo x > /proc/sys/kernel/hostname || echo no sysctl\n\
                 RUN (echo a & wait); sh -c 'echo b'";
    lab.build(steps).await.unwrap();
    let output = lab.output();
    for line in ["no user namespace", "no mount", "no sysctl"] {
        assert!(output.iter().any(|one| one == line), "{line}: {output:?}");
    }
    assert!(!output.iter().any(|line| line == "leak"));
    let processes = output.iter().filter(|line| line.contains(" root ")).count();
    assert!(processes <= 2, "other processes are hidden: {output:?}");
    assert_eq!(output[output.len() - 2..], ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_unpacked_from_blobs_are_what_the_steps_made() {
    if !privileged() {
        return;
    }
    let make = "RUN mkdir -p /d/sub /gone && touch /d/sub/f /gone/x && ln /d/sub/f /d/twin && chown 5:6 /d/sub/f\n\
                RUN rm -r /gone /d/sub && mkdir /d/sub && touch /d/sub/new && chmod 4750 /d/sub/new && mknod /d/p p";
    let list = "RUN cd / && find bin etc/passwd d tmp -exec stat -c '%n %F %a %u %g %Y' {} ';' | sort > /listing && cat /listing";
    let lab = Lab::new();
    let direct = lab.build(&format!("{make}\n{list}")).await.unwrap();
    let listing = lab.output();
    // As after a boot: the index and the blobs are there, the unpacked layers are not.
    for boot in std::fs::read_dir(lab.dir.path().join("cache/layers")).unwrap() {
        for layer in std::fs::read_dir(boot.unwrap().path()).unwrap() {
            std::fs::remove_dir_all(layer.unwrap().path()).unwrap();
        }
    }
    let unpacked = lab.build(&format!("{make}\n{list} && true")).await.unwrap();
    assert_eq!(lab.cached(), [2, 3, 4]);
    assert_eq!(lab.output(), listing);
    assert_eq!(
        unpacked.config().rootfs.diff_ids,
        direct.config().rootfs.diff_ids
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_devices_of_an_image_cannot_be_opened() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o666);
    header.set_device_major(1).unwrap();
    header.set_device_minor(5).unwrap();
    header.set_size(0);
    tar.append_data(&mut header, "zero", std::io::empty())
        .unwrap();
    std::fs::write(lab.context().join("device.tar"), tar.into_inner().unwrap()).unwrap();
    let steps = "ADD device.tar /\nRUN test -c /zero && ! head -c 1 /zero && ! mknod /mine c 1 5 && mknod /pipe p && test -c /dev/zero";
    lab.build(steps).await.unwrap();
    assert_eq!(
        lab.output(),
        [
            "head: /zero: Permission denied",
            "mknod: /mine: Operation not permitted"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_endless_output_is_bounded() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let error = lab
        .build("RUN head -c 20000000 /dev/zero; echo; echo last; exit 3")
        .await
        .unwrap_err();
    let output = lab.output();
    assert_eq!(
        output.last().unwrap(),
        "(the rest of the output is not shown)"
    );
    assert!(output.iter().map(String::len).sum::<usize>() < 17 << 20);
    match error {
        BuildError::Step { tail, .. } => assert_eq!(tail.last().unwrap(), "last"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_independent_stages_run_side_by_side() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    // Each waits for the other, through a cache that both see.
    let meet = |own: &str, other: &str| {
        format!(
            "FROM base AS {own}\nRUN --mount=type=cache,id=meet,target=/c touch /c/{own}; \
             i=0; while [ ! -e /c/{other} ]; do sleep 0.05; i=$((i+1)); [ $i -lt 2000 ] || exit 1; done; echo {own} >/{own}\n"
        )
    };
    let steps = format!(
        "{}{}FROM base\nCOPY --from=left /left /\nCOPY --from=right /right /\nRUN cat /left /right",
        meet("left", "right"),
        meet("right", "left")
    );
    lab.build(&steps).await.unwrap();
    assert_eq!(lab.output(), ["left", "right"]);
    lab.build(&steps).await.unwrap();
    assert_eq!(
        lab.cached().len(),
        6,
        "layers that are not exported are cached, too"
    );
}
