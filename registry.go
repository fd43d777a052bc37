package tandem

import "net/http"

// Registry is the service registry: http.ServeMux patterns to handlers.
type Registry struct {
	mux      http.ServeMux
	patterns []string
}
