//! Policies and the application read the same request, however it is written: each row is denied, or comes to the endpoint as
//! something that no policy names.

use std::rc::Rc;

use super::wire::{Raw, answers};
use crate::mesh::{Mesh, run};

const DENIED: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: denied, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: DENY
  rules:
  - to: [{operation: {paths: ["/secret*"]}}]
  - to: [{operation: {hosts: [admin.shop]}}]
  - when: [{key: "request.headers[x-role]", values: [admin]}]
"#;

/// Target, headers, the answer, and what the endpoint reads.
type Row = (&'static str, &'static str, &'static str, &'static str);

const ROWS: [Row; 29] = [
    ("/secret", "Host: cart", "403", ""),
    ("/secret?a", "Host: cart", "403", ""),
    ("/secret;a", "Host: cart", "403", ""),
    ("/%73ecret", "Host: cart", "403", ""),
    ("/a/../secret", "Host: cart", "403", ""),
    ("/a/%2e%2e/secret", "Host: cart", "403", ""),
    ("/./secret", "Host: cart", "403", ""),
    ("/\\secret/../secret", "Host: cart", "200", "GET //secret"),
    ("\\secret", "Host: cart", "400", ""),
    ("http://cart/secret", "Host: cart", "403", ""),
    ("/secret#a", "Host: cart", "403", ""),
    ("/secret%00", "Host: cart", "400", ""),
    ("/SECRET", "Host: cart", "200", "GET /SECRET"),
    ("//secret", "Host: cart", "200", "GET //secret"),
    ("/%2fsecret", "Host: cart", "200", "GET /%2fsecret"),
    ("/%2573ecret", "Host: cart", "200", "GET /%2573ecret"),
    ("/a", "Host: admin.shop", "403", ""),
    ("/a", "Host: ADMIN.shop", "403", ""),
    ("/a", "Host: admin.shop:80", "403", ""),
    ("/a", "Host: admin.shop.", "403", ""),
    ("http://admin.shop/a", "Host: cart", "403", ""),
    ("http://cart/a", "Host: admin.shop", "200", "GET /a"),
    ("/a", "Host: cart\r\nX-Role: admin", "403", ""),
    ("/a", "Host: cart\r\nx-role:admin \t", "403", ""),
    ("/a", "Host: cart\r\nX-Role: user\r\nX-Role: admin", "403", ""),
    ("/a", "Host: cart\r\nX-Role: admin\r\nX-Role: user", "403", ""),
    ("/a", "Host: cart\r\nX-Role:", "200", "GET /a; x-role: "),
    ("/a", "Host: cart\r\nX_Role: admin", "200", "GET /a; x_role: admin"),
    // It ends here, and no one reads it.
    ("/a", "Host: cart\r\nConnection: x-role\r\nX-Role: admin", "200", "GET /a"),
];

#[test]
fn policies_read_what_the_application_reads() {
    run(async {
        let mesh = Mesh::new(DENIED).await;
        let raw = Rc::new(Raw::default());
        *mesh.node.raw.borrow_mut() = Some(Rc::clone(&raw));
        let mut wrong = Vec::new();
        for (target, headers, answer, endpoint) in ROWS {
            let text = format!("GET {target} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
            let got = answers(&mesh, "web", text.as_bytes()).await;
            let came = raw.came.take().join(" | ");
            if (got.as_str(), came.as_str()) != (answer, endpoint) {
                wrong.push(format!("{target} {headers:?}: {got} {came:?}, not {answer} {endpoint:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}
