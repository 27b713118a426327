package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guardAdmin answers for a page on the admin listener what may be answered: as many requests at once as there are places, and
// none that a web page made. A page of any site can have its name resolved to this machine (DNS rebinding) and then read what
// is served here. Its requests have the site's name as Host, and many an Origin; the tools of operators have neither.
func guardAdmin(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := connectionIn(r.Context())
		defer conn.release()
		switch {
		case conn.admit() != nil:
			plain(w, http.StatusServiceUnavailable, "too many requests are under way: try again later")
		case r.Header.Get("Origin") != "":
			plain(w, http.StatusForbidden, "refused: the request comes from a web page (it has an Origin header)")
		case !namesThisServer(r):
			plain(w, http.StatusForbidden, "refused: ask by the server's IP address or as localhost, since a web page can have any other "+
				"name resolve to it")
		default:
			pages.ServeHTTP(w, r)
		}
	})
}

// namesThisServer reports whether the Host of a request cannot be the name of a web site. On TLS the certificate has seen to
// that, on a unix socket there are no web sites, and a request without Host, which HTTP/1.0 allows, is no browser's.
func namesThisServer(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if r.TLS != nil || r.Host == "" || local != nil && local.Network() == "unix" {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}
