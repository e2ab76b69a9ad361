# A unit that is enabled but exists neither in the config nor in the image fails the build, and names who asks for it.
push_base
pool edge
config 50-edge-moon edge <<'YAML'
ignition: {version: 3.5.0}
systemd:
  units:
  - {name: moon.service, enabled: true}
YAML
image edge <<'TEXT'
FROM configs AS final
RUN true
TEXT
condition mcp/edge ImageBuildDegraded True
message "machineosbuild/$(build_of edge)" Failed
say "image: $(kubectl get machineosconfig edge -o 'jsonpath={.status.currentImagePullSpec}')"
