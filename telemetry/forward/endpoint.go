package forward

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
)

// ErrEndpoint is wrapped by the error about an endpoint, or a protocol, that makes no sense.
var ErrEndpoint = errors.New("OTLP endpoint")

// target is an endpoint and how it is spoken to.
type target struct {
	http bool              // or gRPC
	name string            // for logs
	env  map[string]string // the OTEL_* variables that make an exporter's client go there
}

const (
	tracesVars  = "OTEL_EXPORTER_OTLP_TRACES_"
	generalVars = "OTEL_EXPORTER_OTLP_"
)

// get reads what is set for traces, or else for all signals.
func get(env map[string]string, name string) string {
	if v := strings.TrimSpace(env[tracesVars+name]); v != "" {
		return v
	}
	return strings.TrimSpace(env[generalVars+name])
}

// without drops variables of both kinds.
func without(env map[string]string, names ...string) {
	for _, name := range names {
		delete(env, tracesVars+name)
		delete(env, generalVars+name)
	}
}

// resolve finds the endpoint: the one that is given, or else that of the environment. It gives nil for none.
//
// The exporters' clients know how to read the variables, and nothing else of what a user may want to say
// (headers, certificates, compression). So an endpoint that is given becomes a variable, too.
func resolve(given string, env map[string]string) (*target, error) {
	t := &target{env: maps.Clone(env)}
	if t.env == nil {
		t.env = make(map[string]string)
	}
	endpoint := given
	if given == "" {
		if strings.EqualFold(strings.TrimSpace(env["OTEL_SDK_DISABLED"]), "true") {
			return nil, nil
		}
		if e := strings.TrimSpace(env["OTEL_TRACES_EXPORTER"]); e != "" && !strings.Contains(e, "otlp") {
			return nil, nil
		}
		if endpoint = get(env, "ENDPOINT"); endpoint == "" {
			return nil, nil
		}
	}
	t.name = endpoint
	if given != "" && !strings.Contains(given, "://") {
		endpoint = "http://" + given
	}
	var u *url.URL
	switch {
	case strings.HasPrefix(endpoint, "unix:"):
		u = &url.URL{Scheme: "unix", Opaque: strings.TrimPrefix(endpoint, "unix:")}
	case !strings.Contains(endpoint, "://"): // from a variable: OTEL_EXPORTER_OTLP_INSECURE says whether it has TLS
		u = &url.URL{Host: endpoint}
	default:
		var err error
		if u, err = url.Parse(endpoint); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEndpoint, errors.Unwrap(err))
		}
		if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
			return nil, fmt.Errorf("%w: %q, one such as http://127.0.0.1:4317 is needed", ErrEndpoint, u.Redacted())
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%w: %q has more than a host, a port and a path; credentials go into OTEL_EXPORTER_OTLP_HEADERS", ErrEndpoint, u.Redacted())
		}
	}
	u.Path = strings.TrimRight(u.Path, "/")

	switch p := get(env, "PROTOCOL"); p {
	case "grpc":
	case "http/protobuf", "http/json":
		t.http = true
	case "":
		t.http = u.Port() == "4318" || u.Path != ""
	default:
		return nil, fmt.Errorf("%w: the protocol is %q, grpc, http/protobuf or http/json is needed", ErrEndpoint, p)
	}
	if t.http && u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%w: %q, with http:// or https:// is needed for OTLP over HTTP", ErrEndpoint, endpoint)
	}
	if u.Scheme == "http" {
		// Certificates would make the clients speak TLS all the same, or refuse.
		without(t.env, "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
	}
	if given == "" {
		return t, nil
	}
	const path = "/v1/traces"
	switch {
	case t.http && !strings.HasSuffix(u.Path, path):
		u.Path += path
	case !t.http && u.Scheme == "http" && u.Port() == "":
		u.Host += ":4317" // and not 443, which gRPC takes
	}
	without(t.env, "ENDPOINT", "INSECURE")
	t.env[tracesVars+"ENDPOINT"] = u.String()
	return t, nil
}
