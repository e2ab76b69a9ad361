# The directory that the node asks: OpenLDAP with TLS only, accounts, and automount maps. Sourced.
# shellcheck shell=bash

DIRECTORY=$STATE/directory
BIND_DN=cn=nodes,ou=services,dc=example,dc=com

# start_directory ADDRESS_OF_FILE_SERVER: sets LDAP_PORT; DIRECTORY/ca.crt and DIRECTORY/bind-password are what nodes get.
start_directory() {
    mkdir -p "$DIRECTORY/data"
    cp "$ROOT"/demo/vm/{slapd.conf,automount.schema} "$DIRECTORY/"
    make_certificate ldap.example.com
    (
        umask 077
        openssl rand -hex 16 | tr -d '\n' >"$DIRECTORY/bind-password"
        openssl rand -hex 16 | tr -d '\n' >"$DIRECTORY/admin-password"
        printf 'rootpw %s\n' "$(cat "$DIRECTORY/admin-password")" >"$DIRECTORY/rootpw.conf"
        content "$1" >"$DIRECTORY/content.ldif"
    )
    LDAP_PORT=$(free_port 6360)
    (in_lab "$DIRECTORY" slapadd -q -f /srv/slapd.conf -l /srv/content.ldif) >"$DIRECTORY/slapadd.log" 2>&1 ||
        die "the directory cannot be filled: $(tail -n 3 "$DIRECTORY/slapadd.log")"
    start_in_lab "$DIRECTORY" slapd -d stats -f /srv/slapd.conf -h "ldaps://127.0.0.1:$LDAP_PORT/"
    poll 60 "slapd to answer" directory_answers || die "slapd does not answer: $(tail -n 5 "$DIRECTORY/log")"
}

# make_certificate NAME: an authority of its own, and a certificate for NAME and for this machine.
make_certificate() {
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc)
    openssl req -x509 "${key[@]}" -days 30 -subj "/CN=Authority of the directory" \
        -keyout "$DIRECTORY/ca.key" -out "$DIRECTORY/ca.crt" 2>"$DIRECTORY/openssl.log"
    openssl req -x509 "${key[@]}" -days 30 -subj "/CN=$1" -addext "subjectAltName=DNS:$1,IP:127.0.0.1" \
        -addext basicConstraints=critical,CA:FALSE -CA "$DIRECTORY/ca.crt" -CAkey "$DIRECTORY/ca.key" \
        -keyout "$DIRECTORY/ldap.key" -out "$DIRECTORY/ldap.crt" 2>>"$DIRECTORY/openssl.log"
}

# content SERVER:PATH-OPTIONS: the whole tree. The map has a key for `dale` and a wildcard for everybody else.
content() {
    local name number=1000
    cat <<END
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=services,dc=example,dc=com
objectClass: organizationalUnit
ou: services

dn: $BIND_DN
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: nodes
userPassword: $(cat "$DIRECTORY/bind-password")

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit
ou: groups

dn: ou=automount,dc=example,dc=com
objectClass: organizationalUnit
ou: automount

dn: ou=auto.master,ou=automount,dc=example,dc=com
objectClass: automountMap
ou: auto.master

dn: cn=/home,ou=auto.master,ou=automount,dc=example,dc=com
objectClass: automount
cn: /home
automountInformation: auto.home

dn: ou=auto.home,ou=automount,dc=example,dc=com
objectClass: automountMap
ou: auto.home

dn: cn=dale,ou=auto.home,ou=automount,dc=example,dc=com
objectClass: automount
cn: dale
automountInformation: $1/dale

dn: cn=*,ou=auto.home,ou=automount,dc=example,dc=com
objectClass: automount
cn: *
automountInformation: $1/&
END
    for name in dale jill remy; do
        number=$((number + 1))
        cat <<END

dn: uid=$name,ou=people,dc=example,dc=com
objectClass: account
objectClass: posixAccount
uid: $name
cn: ${name^}
uidNumber: $number
gidNumber: $number
homeDirectory: /home/$name
loginShell: /bin/bash

dn: cn=$name,ou=groups,dc=example,dc=com
objectClass: posixGroup
cn: $name
gidNumber: $number
END
    done
}

# ldap COMMAND ARGUMENT...: a client's command, as the directory's administrator.
ldap() {
    local command=$1
    shift
    (
        # The lab's clients look here for whom to trust.
        printf 'TLS_CACERT /srv/ca.crt\n' >"$DIRECTORY/ldap.conf"
        in_lab "$DIRECTORY" env LDAPCONF=/srv/ldap.conf "$command" -x -H "ldaps://127.0.0.1:$LDAP_PORT" \
            -D cn=admin,dc=example,dc=com -y /srv/admin-password "$@"
    )
}

directory_answers() {
    ! has_ended "$DIRECTORY" || die "slapd ended: $(tail -n 5 "$DIRECTORY/log")"
    ldap ldapsearch -LLL -b dc=example,dc=com -s base dc >/dev/null 2>&1
}
