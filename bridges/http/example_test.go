package httpbridge_test

import (
	"context"
	"fmt"
	"io"
	"net/http"

	httpbridge "loopmq/bridges/http"
	"loopmq/metrics"
)

func ExampleAdmin() {
	admin := httpbridge.NewAdmin(httpbridge.AdminOptions{
		Metrics: metrics.New(1),
		Health:  func() any { return map[string]string{"status": "ok"} },
	})
	addr, err := admin.Start("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := http.Get("http://" + addr.String() + "/health")
	if err != nil {
		fmt.Println(err)
		return
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Print(resp.Status, " ", string(body))
	http.DefaultClient.CloseIdleConnections()
	fmt.Println(admin.Shutdown(context.Background()))
	// Output:
	// 200 OK {"status":"ok"}
	// <nil>
}
