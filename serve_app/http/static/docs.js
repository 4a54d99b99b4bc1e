// In a file of its own: the page's Content-Security-Policy allows no script inside it.
SwaggerUIBundle({
  url: "schema",
  dom_id: "#routes",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
