//! Images for several platforms, and steps for another machine. Takes root.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;

use builder::{BuildError, Engine, Image, Index, Request};
use common::registry::{client, engine, quiet, serve};
use common::{Lab, privileged};
use oci::manifest::this_platform;

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

async fn build(engine: &Engine, request: &Request, platform: &str) -> Result<Image, BuildError> {
    let request = Request {
        platform: Some(builder::parse_platform(platform).unwrap()),
        ..request.clone()
    };
    engine.build(request, Default::default(), &quiet).await
}

async fn index(engine: &Engine, request: &Request) -> Index {
    let mut images = Vec::new();
    for platform in PLATFORMS {
        images.push(build(engine, request, platform).await.unwrap());
    }
    Index::new(images, &Default::default()).unwrap()
}

async fn text(image: &Image, path: &str) -> String {
    let root = image.root(&quiet).await.unwrap();
    String::from_utf8(root.read(path, 99).unwrap().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_an_index_has_an_image_for_each_platform() {
    if !privileged() {
        return;
    }
    let server = serve().await;
    let lab = Lab::new();
    for platform in ["amd64", "arm64"] {
        lab.write(&format!("bin-{platform}"), platform);
    }
    let request = |containerfile: String| Request {
        containerfile,
        ..lab.request("")
    };
    let first = engine(&lab, "first", client(&[&server]));
    let bases = request("FROM scratch\nARG TARGETARCH\nCOPY bin-$TARGETARCH /base".into());
    let base = server.reference("base:1");
    let pushed = first
        .push_index(&index(&first, &bases).await, &base, &quiet)
        .await
        .unwrap();

    let own = this_platform().architecture().to_string();
    let file = format!(
        "FROM --platform=$BUILDPLATFORM {base} AS tool\nFROM {base}\nARG TARGETPLATFORM\nARG BUILDARCH\n\
         ENV FOR=$TARGETPLATFORM ON=$BUILDARCH\nCOPY --from=tool /base /tool"
    );
    let second = engine(&lab, "second", client(&[&server]));
    let made = index(&second, &request(file.clone())).await;
    for (image, platform) in made.images().iter().zip(PLATFORMS) {
        let architecture = platform.trim_start_matches("linux/");
        assert_eq!(image.config().architecture, architecture);
        assert_eq!(
            image.config().config.env,
            [format!("FOR={platform}"), format!("ON={own}")]
        );
        assert_eq!(text(image, "/base").await, architecture);
        assert_eq!(
            text(image, "/tool").await,
            own,
            "it is for the machine that builds"
        );
    }
    // Equal inputs give an equal index; and so do pinned bases.
    let again = index(&engine(&lab, "third", client(&[&server])), &request(file)).await;
    assert_eq!(again.digest(), made.digest());
    let pinned = request(format!("FROM {}", base.with_digest(pushed)));
    assert_eq!(
        text(
            &build(&second, &pinned, PLATFORMS[1]).await.unwrap(),
            "/base"
        )
        .await,
        "arm64"
    );

    let layout = lab.dir.path().join("layout");
    second
        .write_index_layout(&made, &layout, Some("x"), &quiet)
        .await
        .unwrap();
    let listed: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(listed["manifests"][0]["digest"], made.digest().to_string());
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().count();
    assert_eq!(
        blobs, 8,
        "an index, two manifests, two configurations, two bases and the layer that both share"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_steps_for_another_machine_take_an_emulator() {
    if !privileged() {
        return;
    }
    let (architecture, machine) = match this_platform().architecture().to_string().as_str() {
        "arm64" => ("s390x", 22),
        _ => ("arm64", 183),
    };
    let lab = Lab::new();
    fs::write(lab.context().join("exit"), exit_program(machine)).unwrap();
    let request = Request {
        containerfile: "FROM scratch\nCOPY --chmod=755 exit /exit\nRUN [\"/exit\"]".into(),
        ..lab.request("")
    };
    let built = build(&lab.engine, &request, &format!("linux/{architecture}")).await;
    let emulated = fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| {
        let mut names = entries.map(|entry| entry.unwrap().file_name());
        names.any(|name| name == "qemu-aarch64")
    });
    match built {
        Ok(_) if emulated => {}
        Err(error) if !emulated => {
            let said = error.to_string();
            assert!(
                said.contains(&format!("an emulator for {architecture}")),
                "{said}"
            );
            assert!(said.contains("qemu-user-static"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

/// A program that ends at once, successfully, on 64-bit Arm; no other machine is asked to run it.
fn exit_program(machine: u8) -> Vec<u8> {
    let mut program = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut put = |bytes: &[u8]| program.extend_from_slice(bytes);
    let code = [0xd280_0000_u32, 0xd280_0ba8, 0xd400_0001];
    let (base, start, end) = (0x40_0000_u64, 120_u64, 132_u64);
    put(&[2, 0, machine, 0, 1, 0, 0, 0]);
    put(&(base + start).to_le_bytes());
    put(&64_u64.to_le_bytes());
    put(&0_u64.to_le_bytes());
    put(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    put(&[1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, base, base, end, end, 0x1000] {
        put(&number.to_le_bytes());
    }
    for instruction in code {
        put(&instruction.to_le_bytes());
    }
    program
}
