# A RUN step fails: the build says which, how and what it printed; a corrected Containerfile is built.
push_base
pool edge
condition mcp/edge RenderDegraded False
image edge <<'TEXT'
FROM configs AS final
RUN echo looking for the moon && echo "moon: not found" >&2 && exit 3
TEXT
condition mcp/edge ImageBuildDegraded True
failed=$(build_of edge)
say "build:"
message "machineosbuild/$failed" Failed
say "pool:"
message mcp/edge ImageBuildDegraded
kubectl describe machineosbuild "$failed" | grep -o 'moon: not found' | head -n 1

image edge <<'TEXT'
FROM configs AS final
RUN echo found > /etc/moon
TEXT
condition mcp/edge ImageBuildDegraded False
eventually 60 built edge
say "corrected:"
message "machineosbuild/$(build_of edge)" Succeeded
