# The server is killed in the middle of a build: after a restart the same build ends, and there is only one.
push_base
pool edge
condition mcp/edge RenderDegraded False
# A step that no cache has.
image edge <<TEXT
FROM configs AS final
RUN echo first > /etc/first
RUN echo $(date +%s%N) > /etc/second && sleep 5
TEXT
any_building() { kubectl get machineosbuild --no-headers | awk "{ print \$3 }" | grep -q True; }
eventually 60 any_building
building() { kubectl get machineosbuild -o yaml | grep -q 'sleep 5'; }
eventually 60 building
kill_server KILL
say "killed while building"
serve
eventually 120 built edge
kubectl get machineosbuild --no-headers | awk '{ print NF, $2, $3, $4, $5, $6 }' | stable
say "image: $(kubectl get machineosconfig edge -o 'jsonpath={.status.currentImagePullSpec}' | stable)"
! pgrep -f "crun.*$BUILD_CACHE" >&3 && say "nothing of the killed build still runs"
