// In a file of its own: the page's Content-Security-Policy allows no script inside it.
let key = "";

// A key is kept by the page alone, and brings the description of the models with it.
const reload = (original, taken) => (payload) => {
  const result = original(payload);
  key = taken(payload);
  page.specActions.download("schema");
  return result;
};

const page = SwaggerUIBundle({
  url: "schema",
  dom_id: "#routes",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [
    () => ({
      statePlugins: {
        auth: {
          wrapActions: {
            authorize: (original) => reload(original, (payload) => payload.key?.value ?? ""),
            logout: (original) => reload(original, () => ""),
          },
        },
      },
    }),
  ],
  requestInterceptor: (request) => {
    if (request.loadSpec && key) request.headers = { ...request.headers, Authorization: `Bearer ${key}` };
    return request;
  },
});
