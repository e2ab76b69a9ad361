//! Fields beside Ignition.

use super::*;

fn spec(configs: &[(&str, &str)]) -> MachineConfigSpec {
    let configs: Vec<MachineConfig> = configs
        .iter()
        .enumerate()
        .map(|(index, (role, spec))| config(&format!("config-{index}"), role, spec))
        .collect();
    rendered(&configs).unwrap().config.spec
}

#[test]
fn kernel_type() {
    let kernel = |types: &[&str]| {
        let specs: Vec<String> = types
            .iter()
            .map(|kernel| format!("kernelType: '{kernel}'"))
            .collect();
        let configs: Vec<(&str, &str)> =
            specs.iter().map(|spec| ("worker", spec.as_str())).collect();
        spec(&configs).kernel_type
    };
    assert_eq!(kernel(&[""]), "default");
    assert_eq!(kernel(&["realtime", ""]), "realtime");
    assert_eq!(kernel(&["realtime", "64k-pages"]), "64k-pages");
    assert_eq!(kernel(&["realtime", "default"]), "default");
}

#[test]
fn image() {
    let default = spec(&[("worker", "fips: true")]);
    assert_eq!(default.os_image_url, "quay.io/os/base:1");
    let own = [
        ("worker", "osImageURL: quay.io/os/a:1"),
        ("infra", "osImageURL: quay.io/os/b:1"),
    ];
    assert_eq!(spec(&own).os_image_url, "quay.io/os/b:1");
    assert!(spec(&[("worker", "fips: true"), ("infra", "fips: false")]).fips);
}

#[test]
fn nothing_twice() {
    let twice = spec(&[
        (
            "worker",
            "kernelArguments: [nosmt, quiet]\nextensions: [usbguard, sysstat]",
        ),
        (
            "infra",
            "kernelArguments: ['quiet nosmt', x=1]\nextensions: [usbguard]",
        ),
    ]);
    assert_eq!(twice.kernel_arguments, ["nosmt", "quiet", "x=1"]);
    assert_eq!(twice.extensions, ["sysstat", "usbguard"]);
}

#[test]
fn refused() {
    let found = [
        error(&[
            config("a", "worker", "kernelType: rt"),
            config("b", "worker", "extensions: [nope, usbgard]"),
        ]),
        error(&[config(
            "a",
            "worker",
            "kernelArguments: ['', \"a\\nb\"]\nosImageURL: 'os image'",
        )]),
        error(&[
            config("a", "worker", "kernelType: realtime"),
            config("b", "worker", "extensions: [kernel-devel]"),
        ]),
        error(&[
            config("a", "worker", "fips: true"),
            config("a", "worker", "fips: true"),
        ]),
    ];
    insta::assert_snapshot!(found.join("\n"));
}
