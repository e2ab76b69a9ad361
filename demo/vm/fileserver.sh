# The file server with people's homes: nfs-ganesha, NFSv4 on one port, without the kernel's help. Sourced.
# shellcheck shell=bash

FILESERVER=$STATE/fileserver

# start_fileserver: sets NFS_PORT; FILESERVER/homes is what nodes see as /exports/home.
start_fileserver() {
    local number=1000 name
    mkdir -p "$FILESERVER/homes" "$FILESERVER/recovery"
    for name in dale jill remy; do
        number=$((number + 1))
        install -d -m 0700 -o "$number" -g "$number" "$FILESERVER/homes/$name"
    done
    NFS_PORT=$(free_port 12049)
    cat >"$FILESERVER/ganesha.conf" <<END
NFS_CORE_PARAM {
    Bind_addr = 127.0.0.1;
    NFS_Port = $NFS_PORT;
    Protocols = 4;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Plugins_Dir = /usr/lib/x86_64-linux-gnu/ganesha;
}
NFSv4 {
    # Nobody has held anything before.
    Graceless = true;
    RecoveryBackend = fs;
    RecoveryRoot = /srv/recovery;
    # Owners are numbers, as the accounts have them in the directory.
    Only_Numeric_Owners = true;
}
EXPORT {
    Export_Id = 1;
    Path = /srv/homes;
    Pseudo = /exports/home;
    Access_Type = RW;
    Squash = Root_Squash;
    SecType = sys;
    # QEMU's network asks from ports of an ordinary process.
    PrivilegedPort = false;
    FSAL { Name = VFS; }
}
END
    start_in_lab "$FILESERVER" ganesha.nfsd -F -f /srv/ganesha.conf -L /srv/ganesha.log -p /run/ganesha.pid
    poll 60 "nfs-ganesha to listen" fileserver_listens ||
        die "nfs-ganesha does not listen: $(tail -n 5 "$FILESERVER/ganesha.log")"
    # It starts without the exports that it cannot make.
    ! grep -F ':CONFIG :CRIT' "$FILESERVER/ganesha.log" >&2 || die "nfs-ganesha does not export the homes"
}

fileserver_listens() {
    ! has_ended "$FILESERVER" || die "nfs-ganesha ended: $(tail -n 5 "$FILESERVER/ganesha.log")"
    ! port_is_free "$NFS_PORT"
}
